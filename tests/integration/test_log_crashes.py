"""The writer of the log dies, or the disk refuses, at every one of its steps; no row is lost.

A crash is simulated at the system calls that change files: from the chosen one on, none has any
effect, as if the process had gone. The oracle is the list of seeds that were written.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lynx_engine.digest import digest_bytes
from lynx_engine.errors import DamagedError
from lynx_engine.provenance.folding import Recovery, fold_log, recover_log
from lynx_engine.provenance.store import prepare_part, read_parts, write_part
from tests.support.jobs import make_job, record_of

STEPS = ("open", "write", "fsync", "replace", "unlink")


class DeadError(BaseException):
    """The process is gone."""


def seeds_in(folder: Path) -> list[int]:
    return read_parts(folder)["seed"].to_list()


def fill(folder: Path, *seeds: int) -> None:
    for seed in seeds:
        write_part(folder, record_of(make_job(seed=seed), day=seed))


def fails_at(work: Callable[[], object], step: int, *, dies: bool) -> bool:
    """Run `work`; at file operation `step` die for good, or report a full disk once.

    Returns:
        Whether `work` has so many steps.
    """
    count = 0

    def fail_or(call: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if dies and count >= step:
                raise DeadError
            if count == step:
                raise OSError(errno.ENOSPC, "No space left on device")
            return call(*args, **kwargs)

        return stand_in

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, fail_or(getattr(os, name)))
        try:
            work()
        except (DeadError, OSError):
            return True
    assert count < step
    return False


def assert_orderly(folder: Path, seeds: list[int]) -> None:
    """Check that recovering loses and doubles nothing, and leaves neither temps nor work."""
    assert seeds_in(folder) == seeds
    recover_log(folder, folder)
    assert seeds_in(folder) == seeds
    assert list(folder.glob(".*")) == []
    names = sorted(p.name for p in folder.glob("*.parquet"))
    assert sorted((folder / "index").read_text().splitlines()) == names
    assert recover_log(folder, folder) == Recovery()


@pytest.mark.parametrize("dies", [True, False], ids=["crash", "full disk"])
def test_record_is_there_once_or_not_at_all_wherever_its_write_stops(
    tmp_path: Path, dies: bool
) -> None:
    seen: set[int] = set()
    step, was_stopped = 0, True
    while was_stopped:
        step += 1
        folder = tmp_path / str(step)
        fill(folder, 1, 2)
        was_stopped = fails_at(lambda at=folder: fill(at, 3), step, dies=dies)
        seeds = seeds_in(folder)
        assert seeds in ([1, 2], [1, 2, 3])
        seen.add(len(seeds))
        assert_orderly(folder, seeds)
        fill(folder, 4)
        assert_orderly(folder, [*seeds, 4])
    assert seen == {2, 3}
    assert step > 6
    sys.stdout.write(f"FAULT log_write_stopped dies={dies} steps={step} lost=0 duplicate=0\n")


@pytest.mark.parametrize("dies", [True, False], ids=["crash", "full disk"])
def test_every_row_is_there_once_wherever_a_fold_stops(tmp_path: Path, dies: bool) -> None:
    step, was_stopped = 0, True
    while was_stopped:
        step += 1
        folder = tmp_path / str(step)
        fill(folder, 1, 2, 3)
        fold_log(folder)
        fill(folder, 4, 5)
        was_stopped = fails_at(lambda at=folder: fold_log(at), step, dies=dies)
        assert_orderly(folder, [1, 2, 3, 4, 5])
        fold_log(folder)
        fill(folder, 6)
        assert_orderly(folder, [1, 2, 3, 4, 5, 6])
    assert step > 10
    sys.stdout.write(f"FAULT log_fold_stopped dies={dies} steps={step} lost=0 duplicate=0\n")


@pytest.mark.parametrize("dies", [True, False], ids=["crash", "full disk"])
def test_recovery_that_stops_is_finished_by_the_next(tmp_path: Path, dies: bool) -> None:
    step, was_stopped = 0, True
    while was_stopped:
        step += 1
        folder = tmp_path / str(step)
        fill(folder, 1, 2, 3)
        leftovers = {p: p.read_bytes() for p in folder.glob("part-*")}
        fold_log(folder)
        for path, data in leftovers.items():
            path.write_bytes(data)
        clips = tmp_path / f"clips {step}"
        clips.mkdir()
        (clips / "clip.mp4").write_bytes(b"moving")
        facts = {"clip": "clip.mp4", "clip_bytes": 6, "clip_digest": digest_bytes(b"moving")}
        prepare_part(folder, record_of(make_job(seed=4), day=4, **facts))
        prepare_part(folder, record_of(make_job(seed=5), day=5, clip="never.mp4"))
        with (folder / "index").open("ab") as index:
            index.write(b"part-2026")
        was_stopped = fails_at(lambda at=folder, c=clips: recover_log(at, c), step, dies=dies)
        recover_log(folder, clips)
        assert_orderly(folder, [1, 2, 3, 4])
        assert len(list(folder.glob("*.parquet"))) == 2
    assert step > 8


def test_rows_would_be_lost_if_parts_went_before_the_folded_file_came(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2, 3)

    def fold_badly() -> None:
        for part in sorted(tmp_path.glob("part-*")):
            part.unlink()
        fill(tmp_path, 1, 2, 3)

    fails_at(fold_badly, 2, dies=True)
    with pytest.raises(DamagedError, match="missing"):
        read_parts(tmp_path)
    sys.stdout.write("MUTANT log_fold_order red\n")


def test_torn_last_line_is_mended_before_the_next_is_appended(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2)
    index = tmp_path / "index"
    index.write_bytes(index.read_bytes()[:-20])
    assert recover_log(tmp_path, tmp_path).listed == 1
    fill(tmp_path, 3)
    assert seeds_in(tmp_path) == [1, 2, 3]


def test_half_a_line_on_a_full_disk_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 1)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:30]))
    fill(tmp_path, 2)
    monkeypatch.undo()
    fill(tmp_path, 3)
    assert seeds_in(tmp_path) == [1, 2, 3]
    assert len((tmp_path / "index").read_text().splitlines()) == 2
