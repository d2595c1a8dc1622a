"""The log among real processes: readers beside a writer that folds, and a writer that is killed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from lynx_engine.provenance.folding import recover_log
from lynx_engine.provenance.store import read_parts, write_part
from tests.support.jobs import make_job, record_of

KILLS = 20
RACE_S = 4.0

HEAD = """
import sys, time
from datetime import timedelta
from pathlib import Path
from lynx_engine.provenance.folding import fold_log, recover_log
from lynx_engine.provenance.store import write_part
from tests.support.jobs import make_job, record_of
folder, first = Path(sys.argv[1]), int(sys.argv[2])
start = record_of(make_job()).finished_at
def write(seed):
    moment = start + timedelta(seconds=seed)
    write_part(folder, record_of(make_job(seed=seed), started_at=moment, finished_at=moment))
    sys.stdout.write(f"{seed}\\n")
    sys.stdout.flush()
"""

GROWS = f"""{HEAD}
recover_log(folder, folder)
for seed in range(first, first + 100_000):
    write(seed)
    if seed % 7 == 0:
        fold_log(folder)
"""

# The same rows again and again: each fold replaces the index and deletes twelve files.
REFOLDS = f"""{HEAD}
while True:
    for seed in range(12):
        write(seed)
    fold_log(folder)
"""


@contextmanager
def writer(program: str, folder: Path, first: int = 0) -> Generator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder), str(first)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def acknowledged(process: subprocess.Popen[bytes]) -> list[int]:
    assert process.stdout is not None
    return [int(line) for line in process.stdout.read().splitlines()]


def wait_for(process: subprocess.Popen[bytes], lines: int) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(lines)]


def test_reader_beside_a_writer_sees_every_row_so_far_and_none_twice(tmp_path: Path) -> None:
    seen: list[int] = []
    with writer(GROWS, tmp_path) as process:
        wait_for(process, 8)
        ends = time.monotonic() + RACE_S
        while time.monotonic() < ends:
            seeds = read_parts(tmp_path)["seed"].to_list()
            assert seeds == list(range(len(seeds)))
            seen.append(len(seeds))
        process.kill()
        acks = 8 + len(acknowledged(process))
    assert seen == sorted(seen)
    assert len(set(seen)) >= 5
    assert acks <= len(read_parts(tmp_path)) <= acks + 1
    sys.stdout.write(f"FAULT log_read_while_written reads={len(seen)} mismatch=0\n")


def test_reader_beside_folds_always_sees_the_same_rows(tmp_path: Path) -> None:
    reads = 0
    with writer(REFOLDS, tmp_path) as process:
        wait_for(process, 13)
        ends = time.monotonic() + RACE_S
        while time.monotonic() < ends:
            assert read_parts(tmp_path)["seed"].to_list() == list(range(12))
            reads += 1
        process.kill()
        folds = len(acknowledged(process)) // 12
    assert min(reads, folds) >= 5
    sys.stdout.write(f"FAULT log_read_while_folded reads={reads} folds={folds} mismatch=0\n")


def test_writer_killed_at_random_moments_loses_and_doubles_nothing(tmp_path: Path) -> None:
    draw = random.Random("moments")
    acks: list[int] = []
    seeds: list[int] = []
    first = 0
    for _ in range(KILLS):
        with writer(GROWS, tmp_path, first) as process:
            acks += wait_for(process, 1)
            time.sleep(draw.uniform(0, 0.1))
            process.kill()
            acks += acknowledged(process)
        before = read_parts(tmp_path)["seed"].to_list()
        recover_log(tmp_path, tmp_path)
        seeds = read_parts(tmp_path)["seed"].to_list()
        assert seeds == before
        first = max(seeds) + 1
    counts = Counter(seeds)
    lost = [seed for seed in acks if not counts[seed]]
    doubled = [seed for seed, count in counts.items() if count > 1]
    temps = list(tmp_path.glob(".*"))
    sys.stdout.write(
        f"FAULT log_writer_killed kills={KILLS} rows={len(seeds)} lost={len(lost)} "
        f"duplicate={len(doubled)} temps={len(temps)}\n"
    )
    assert (lost, doubled, temps) == ([], [], [])
    # At most the one row that was in flight at each kill is there without having been confirmed.
    assert len(acks) <= len(seeds) <= len(acks) + KILLS


def test_rows_are_lost_when_a_row_is_confirmed_before_it_is_in_place(tmp_path: Path) -> None:
    """The oracle of the kills above, on a writer that promises too early."""
    early = GROWS.replace("    write_part(folder", "    pass  # (folder")
    assert early != GROWS
    with writer(early, tmp_path) as process:
        acks = wait_for(process, 5)
    seeds = set(read_parts(tmp_path)["seed"].to_list())
    assert [seed for seed in acks if seed not in seeds] == acks
    write_part(tmp_path, record_of(make_job(seed=acks[0])))
    assert read_parts(tmp_path)["seed"].to_list() == [acks[0]]
    sys.stdout.write("MUTANT log_early_confirmation red\n")
