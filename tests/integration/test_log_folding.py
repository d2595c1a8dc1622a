"""Folding and recovery: one file instead of thousands, the same rows, and nothing left lying."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lynx_engine.digest import digest_bytes
from lynx_engine.errors import DamagedError, PausedError
from lynx_engine.lock import lock_campaign
from lynx_engine.provenance import folding
from lynx_engine.provenance.folding import Recovery, fold_log, recover_log
from lynx_engine.provenance.past import read_history
from lynx_engine.provenance.schema import ProvenanceRecord
from lynx_engine.provenance.store import prepare_part, read_parts, write_part
from tests.support.jobs import make_job, record_of

CLIP = b"a moving picture"


def fill(folder: Path, *seeds: int) -> None:
    for seed in seeds:
        write_part(folder, record_of(make_job(seed=seed), day=seed))


def seeds_in(folder: Path) -> list[int]:
    return read_parts(folder)["seed"].to_list()


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def published(clips: Path, *, seed: int = 1) -> ProvenanceRecord:
    """Return the record of a clip that lies in `clips`."""
    clips.mkdir(exist_ok=True)
    job = make_job(seed=seed)
    (clips / job.clip_name).write_bytes(CLIP)
    return record_of(job, day=seed, clip_bytes=len(CLIP), clip_digest=digest_bytes(CLIP))


def test_folded_log_is_one_file_with_the_same_rows(tmp_path: Path) -> None:
    records = [record_of(make_job(seed=seed), day=seed) for seed in (1, 2, 3)]
    for record in records:
        write_part(tmp_path, record)
    history = read_history(tmp_path)
    assert fold_log(tmp_path) == 3
    folded, index = sorted(tmp_path.glob("log-*"))[0], tmp_path / "index"
    assert names_in(tmp_path) == sorted([folded.name, "index"])
    assert folded.name.startswith("log-20261103T120000250000Z-3-")
    assert index.read_text() == f"{folded.name}\n"
    assert list(read_parts(tmp_path).iter_rows(named=True)) == [asdict(r) for r in records]
    assert read_history(tmp_path) == history


def test_folding_a_folded_or_empty_log_changes_nothing(tmp_path: Path) -> None:
    assert fold_log(tmp_path) == 0
    assert names_in(tmp_path) == []
    fill(tmp_path, 1, 2)
    fold_log(tmp_path)
    before = {p: (p.stat().st_ino, p.read_bytes()) for p in tmp_path.iterdir()}
    assert fold_log(tmp_path) == 0
    assert {p: (p.stat().st_ino, p.read_bytes()) for p in tmp_path.iterdir()} == before


def test_folded_file_takes_in_later_parts_and_the_earlier_folded_file(tmp_path: Path) -> None:
    fill(tmp_path, 1, 3)
    fold_log(tmp_path)
    fill(tmp_path, 2)
    assert seeds_in(tmp_path) == [1, 2, 3]
    assert fold_log(tmp_path) == 3
    assert seeds_in(tmp_path) == [1, 2, 3]
    assert len(names_in(tmp_path)) == 2


def test_rows_that_differ_in_one_of_their_names_are_both_kept(tmp_path: Path) -> None:
    record = record_of(make_job())
    fill(tmp_path, 1)
    fold_log(tmp_path)
    for other in (
        replace(record, run_id="r2"),
        replace(record, attempt=2),
        replace(record, status="failed"),
    ):
        write_part(tmp_path, other)
    assert len(read_parts(tmp_path)) == 4
    assert fold_log(tmp_path) == 4


def test_log_without_an_index_is_folded_into_one_that_has_it(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2)
    (tmp_path / "index").unlink()
    assert fold_log(tmp_path) == 2
    assert seeds_in(tmp_path) == [1, 2]
    assert (tmp_path / "index").is_file()


def test_orderly_log_is_recovered_without_reading_or_changing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 1, 2)
    monkeypatch.delattr(folding, "read_files")
    assert recover_log(tmp_path, tmp_path) == Recovery()
    assert recover_log(tmp_path / "never", tmp_path) == Recovery()


def test_whole_files_without_a_line_are_listed(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2, 3)
    lines = (tmp_path / "index").read_text().splitlines(keepends=True)
    (tmp_path / "index").write_text(lines[0])
    assert seeds_in(tmp_path) == [1, 2, 3]
    assert recover_log(tmp_path, tmp_path) == Recovery(listed=2)
    next(tmp_path.glob("part-20261103*")).unlink()
    with pytest.raises(DamagedError, match="missing: the index lists it"):
        read_parts(tmp_path)


def test_record_of_a_published_clip_is_adopted(tmp_path: Path) -> None:
    log, clips = tmp_path / "log", tmp_path / "clips"
    fill(log, 2)
    record = published(clips)
    part = prepare_part(log, record)
    assert recover_log(log, clips) == Recovery(adopted=(record.clip,))
    assert read_parts(log).row(0, named=True) == asdict(record)
    assert part.path.name in (log / "index").read_text()
    assert recover_log(log, clips) == Recovery()


@pytest.mark.parametrize("fault", ["no clip", "cut", "changed", "failed", "damaged", "elsewhere"])
def test_record_that_tells_of_no_such_clip_is_removed(tmp_path: Path, fault: str) -> None:
    log, clips = tmp_path / "log", tmp_path / "clips"
    record = published(clips)
    clip = clips / record.clip
    match fault:
        case "no clip":
            clip.unlink()
        case "cut":
            clip.write_bytes(CLIP[:-1])
        case "changed":
            clip.write_bytes(CLIP.swapcase())
        case "failed":
            record = replace(record, status="failed", code="encoder")
        case "elsewhere":
            record = replace(record, clip=f"../clips/{record.clip}")
    part = prepare_part(log, record)
    if fault == "damaged":
        part.temp.write_bytes(part.temp.read_bytes()[:-1])
    assert recover_log(log, clips) == Recovery(removed=1)
    assert read_parts(log).is_empty()
    assert list(log.glob(".*")) == []


def test_parts_whose_rows_are_all_folded_are_removed_and_others_stay(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2)
    old = {p: p.read_bytes() for p in tmp_path.glob("part-*")}
    fold_log(tmp_path)
    fill(tmp_path, 3)
    for path, data in old.items():
        path.write_bytes(data)
    assert seeds_in(tmp_path) == [1, 2, 3]
    assert recover_log(tmp_path, tmp_path) == Recovery(leftovers=2)
    assert not any(path.exists() for path in old)
    assert seeds_in(tmp_path) == [1, 2, 3]


def test_damaged_log_is_not_recovered_and_not_touched(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2)
    next(tmp_path.glob("part-20261101*")).write_bytes(b"")
    (tmp_path / ".part-x.7.tmp").write_bytes(b"half")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(DamagedError, match="1 damaged, missing or foreign file in the log"):
        recover_log(tmp_path, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_lock_tells_which_clips_it_adopted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, clips = tmp_path / "provenance", tmp_path / "clips"
    record = published(clips)
    prepare_part(log, record)
    prepare_part(log, replace(record, clip="never.mp4"))
    with caplog.at_level(logging.INFO), lock_campaign(tmp_path) as lock:
        assert lock.recovered == Recovery(adopted=(record.clip,), removed=1)
    assert f"adopted {record.clip}: its record was written but not yet in place" in caplog.messages
    assert "removed 1 unfinished files of an earlier run" in caplog.messages
    with lock_campaign(tmp_path) as lock:
        assert lock.recovered == Recovery()


def test_record_whose_commit_failed_is_adopted_when_the_run_ends(tmp_path: Path) -> None:
    with lock_campaign(tmp_path):
        record = published(tmp_path / "clips")
        prepare_part(tmp_path / "provenance", record)
    assert seeds_in(tmp_path / "provenance") == [1]


def test_damage_during_a_run_is_left_to_the_next_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with lock_campaign(tmp_path):
        (tmp_path / "provenance" / "mine.txt").write_text("a note")
    assert "left for the next run to tidy" in caplog.text
    assert "mine.txt: not a part of the log" in caplog.text
    with pytest.raises(DamagedError, match=r"mine\.txt"), lock_campaign(tmp_path):
        pass


def test_lock_on_a_full_disk_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "provenance", 1)
    (tmp_path / "provenance" / "index").unlink()

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(PausedError, match="No space left"), lock_campaign(tmp_path):
        pass
    monkeypatch.undo()
    with lock_campaign(tmp_path) as lock:
        assert lock.recovered.listed == 1
