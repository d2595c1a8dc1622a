"""Damage to any file of the log is named, or loses nothing; no reader ever sees wrong rows.

The oracle is the list of seeds that were written.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from lynx_engine.digest import digest_bytes
from lynx_engine.errors import DamagedError
from lynx_engine.provenance import files
from lynx_engine.provenance.folding import fold_log
from lynx_engine.provenance.past import read_history
from lynx_engine.provenance.store import read_parts, write_part
from tests.support.jobs import make_job, record_of

FLIPS = 300
SEEDS = list(range(1, 13))


def seeds_in(folder: Path) -> list[int]:
    return read_parts(folder)["seed"].to_list()


def report(folder: Path) -> str:
    with pytest.raises(DamagedError) as caught:
        read_parts(folder)
    return str(caught.value)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return a log of a folded file (8 rows), four parts and an index."""
    for seed in SEEDS:
        write_part(tmp_path, record_of(make_job(seed=seed), day=seed))
        if seed == 8:
            fold_log(tmp_path)
    assert seeds_in(tmp_path) == SEEDS
    return tmp_path


def file_of(log: Path, kind: str) -> Path:
    return sorted(log.glob({"part": "part-*", "folded": "log-*", "index": "index"}[kind]))[0]


@pytest.mark.parametrize("kind", ["part", "folded"])
def test_file_of_the_log_that_was_cut_is_named_at_every_length(tmp_path: Path, kind: str) -> None:
    write_part(tmp_path, record_of(make_job()))
    if kind == "folded":
        fold_log(tmp_path)
    file = file_of(tmp_path, kind)
    for length in reversed(range(file.stat().st_size)):
        with file.open("r+b") as open_file:
            open_file.truncate(length)
        problems = files.read_files(tmp_path).problems
        assert [p.where for p in problems] == [str(file)]
        if length % 500 == 0:
            assert f"{file}: damaged" in report(tmp_path)


def test_index_that_was_cut_loses_no_row_at_any_length(log: Path) -> None:
    data = file_of(log, "index").read_bytes()
    for length in reversed(range(len(data))):
        file_of(log, "index").write_bytes(data[:length])
        assert seeds_in(log) == SEEDS


def flip(log: Path, kind: str) -> tuple[int, int]:
    """Return how many of the flips were named and how many changed the rows silently."""
    draw = random.Random(f"flips of {kind}")
    file = file_of(log, kind)
    data = bytearray(file.read_bytes())
    named = wrong = 0
    for _ in range(FLIPS):
        bit = draw.randrange(len(data) * 8)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        data[bit // 8] ^= 1 << bit % 8
        try:
            wrong += seeds_in(log) != SEEDS
        except DamagedError as error:
            named += str(log) in str(error)
    file.write_bytes(data)
    assert seeds_in(log) == SEEDS
    return named, wrong


@pytest.mark.parametrize("kind", ["part", "folded", "index"])
def test_every_flipped_bit_is_named_or_harmless(log: Path, kind: str) -> None:
    named, wrong = flip(log, kind)
    sys.stdout.write(f"FAULT log_bit_flips_{kind} flips={FLIPS} named={named} mismatch={wrong}\n")
    assert wrong == 0
    if kind == "index":
        # Only the last line's end may turn into something that reads as a torn line.
        assert named >= FLIPS * 0.95
    else:
        assert named == FLIPS


def test_flip_in_a_prompt_would_pass_unseen_without_the_digest(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = file_of(log, "part")
    data = file.read_bytes()
    assert data.count(b"A walk on") == 1
    file.write_bytes(data.replace(b"A walk on", b"A talk on"))
    assert f"{file}: damaged" in report(log)
    monkeypatch.setattr(files, "is_whole", lambda *_: True)
    assert "A talk on the beach." in read_parts(log)["prompt"].to_list()
    sys.stdout.write("MUTANT log_digest red\n")


@pytest.mark.parametrize("kind", ["part", "folded"])
def test_deleted_file_is_named(log: Path, kind: str) -> None:
    file = file_of(log, kind)
    file.unlink()
    assert f"{file}: missing: the index lists it" in report(log)


@pytest.mark.parametrize("kind", ["part", "folded"])
def test_emptied_file_is_named(log: Path, kind: str) -> None:
    file = file_of(log, kind)
    file.write_bytes(b"")
    assert f"{file}: damaged" in report(log)


def test_files_with_swapped_contents_are_both_named(log: Path) -> None:
    one, two = sorted(log.glob("part-*"))[:2]
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    told = report(log)
    assert f"{one}: damaged" in told
    assert f"{two}: damaged" in told


def test_renamed_file_is_named_as_missing(log: Path) -> None:
    file = file_of(log, "part")
    file.rename(file.with_name(file.name.replace("-a1-", "-a2-")))
    assert f"{file}: missing" in report(log)


def test_every_kind_of_damage_is_told_in_one_letter(log: Path) -> None:
    deleted, cut, kept = sorted(log.glob("part-*"))[:3]
    deleted.unlink()
    cut.write_bytes(b"PAR1")
    (log / "mine.txt").write_text("a note")
    (log / "folder").mkdir()
    with file_of(log, "index").open("ab") as index:
        index.write(b"part-\x1b[31m\n")
    told = report(log)
    assert told.startswith("5 damaged, missing or foreign files in the log:")
    for words in (
        f"{deleted}: missing",
        f"{cut}: damaged",
        f"{log / 'mine.txt'}: not a part of the log",
        f"{log / 'folder'}: not a part of the log",
        f"{log / 'index'}:6: damaged: 'part-\\x1b[31m' is no name",
    ):
        assert words in told
    assert str(kept) not in told
    assert "Move each out of the folder, and the file `index` with them" in told


def test_log_is_whole_again_once_the_advice_was_followed(log: Path) -> None:
    file = file_of(log, "part")
    file.write_bytes(b"")
    report(log)
    file.unlink()
    (log / "index").unlink()
    assert seeds_in(log) == [seed for seed in SEEDS if seed != 9]


def test_index_that_is_a_folder_or_a_fifo_is_named_and_not_waited_for(log: Path) -> None:
    (log / "index").unlink()
    (log / "index").mkdir()
    assert f"{log / 'index'}: cannot be read" in report(log)
    (log / "index").rmdir()
    os.mkfifo(log / "index")
    assert f"{log / 'index'}: cannot be read" in report(log)


def test_file_that_names_its_digest_but_is_no_parquet_is_named(log: Path) -> None:
    name = file_of(log, "part").name.rpartition("-")[0]
    forged = log / f"{name}-{digest_bytes(b'hello')[:32]}.parquet"
    forged.write_bytes(b"hello")
    assert f"{forged}: not a part of the log; it is no parquet" in report(log)


def test_place_of_the_log_that_is_a_file_is_named(tmp_path: Path) -> None:
    place = tmp_path / "provenance"
    place.write_text("")
    assert f"{place}: cannot be read" in report(place)


def test_damaged_log_is_not_folded_and_not_touched(log: Path) -> None:
    file_of(log, "part").unlink()
    before = {p.name: p.read_bytes() for p in log.iterdir()}
    with pytest.raises(DamagedError, match="missing"):
        fold_log(log)
    assert {p.name: p.read_bytes() for p in log.iterdir()} == before


def test_history_of_a_damaged_log_is_refused(log: Path) -> None:
    file_of(log, "folded").write_bytes(b"")
    with pytest.raises(DamagedError):
        read_history(log)


def test_link_to_nowhere_is_named(log: Path) -> None:
    name = file_of(log, "part").name.replace("-a1-", "-a2-")
    (log / name).symlink_to(log / "nowhere")
    assert f"{log / name}: not a part of the log" in report(log)
