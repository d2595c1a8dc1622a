"""The log through real parquet: what is written comes back, and no damage passes unseen."""

from __future__ import annotations

import json
import stat
from dataclasses import asdict, fields
from pathlib import Path

import polars as pl
import pytest

from lynx_engine.errors import DamagedError, ErrorCode, ExitCode
from lynx_engine.jobs import REQUEST_FIELDS, Failed, Interrupted, RowKey, Status
from lynx_engine.provenance.environment import keyed_digest, make_workspace_key
from lynx_engine.provenance.record import make_record
from lynx_engine.provenance.schema import ProvenanceRecord, record_columns
from lynx_engine.provenance.store import read_history, read_parts, write_part
from tests.support.jobs import make_job, planned, record_of


def test_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = record_of(make_job(prompt="Ein Spaziergang 海滩 🏖 </script> [/red]"))
    write_part(tmp_path, record)
    assert read_parts(tmp_path).row(0, named=True) == asdict(record)


def test_every_request_field_is_a_column() -> None:
    assert set(REQUEST_FIELDS) <= set(record_columns())


def test_every_column_is_documented() -> None:
    words = ProvenanceRecord.__doc__ or ""
    undocumented = [f.name for f in fields(ProvenanceRecord) if f"        {f.name}: " not in words]
    assert undocumented == []


def test_records_come_back_oldest_first_whatever_their_file_order(tmp_path: Path) -> None:
    for day, seed in ((3, 1), (1, 2), (2, 3)):
        write_part(tmp_path, record_of(make_job(seed=seed), day=day))
    assert read_parts(tmp_path)["seed"].to_list() == [2, 3, 1]


def test_log_that_never_was_is_empty_with_all_columns(tmp_path: Path) -> None:
    log = read_parts(tmp_path / "nothing")
    assert log.is_empty()
    assert log.columns == [f.name for f in fields(ProvenanceRecord)]


def test_outcome_of_a_render_fills_its_columns() -> None:
    record = record_of(make_job())
    assert (record.status, record.clip_frames, record.denoise_s) == ("rendered", 9, 1.5)
    assert json.loads(record.weights) == {"base": "w" * 64}


def test_failure_and_interruption_leave_the_clip_columns_empty() -> None:
    for result, status, code in (
        (Failed(ErrorCode.ENCODER, "ffmpeg exited"), "failed", "encoder"),
        (Interrupted(), "interrupted", ""),
    ):
        moment = record_of(make_job()).started_at
        record = make_record(
            planned(make_job()),
            result,
            run_id="r",
            started_at=moment,
            finished_at=moment,
            key=b"k",
        )
        assert (record.status, record.code, record.clip) == (status, code, "")


def test_photo_is_named_by_a_keyed_digest_only(tmp_path: Path) -> None:
    photo_digest = "ab" * 32
    record = record_of(make_job(subject_digest=photo_digest))
    assert record.subject_digest == keyed_digest(photo_digest, b"k" * 32)
    part = write_part(tmp_path, record)
    assert photo_digest.encode() not in part.read_bytes()


def test_workspace_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    key = make_workspace_key(tmp_path / "state")
    path = tmp_path / "state" / "workspace.key"
    assert make_workspace_key(tmp_path / "state") == key
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def damage_report(folder: Path) -> str:
    with pytest.raises(DamagedError) as caught:
        read_parts(folder)
    assert caught.value.exit_code is ExitCode.DAMAGED
    return str(caught.value)


def test_every_flipped_bit_is_named(tmp_path: Path) -> None:
    part = write_part(tmp_path, record_of(make_job()))
    data = bytearray(part.read_bytes())
    step = max(1, len(data) // 200)
    for position in range(0, len(data), step):
        data[position] ^= 1 << (position % 8)
        part.write_bytes(data)
        assert f"{part}: damaged" in damage_report(tmp_path)
        data[position] ^= 1 << (position % 8)


def test_truncated_part_is_named_at_every_length(tmp_path: Path) -> None:
    part = write_part(tmp_path, record_of(make_job()))
    data = part.read_bytes()
    for length in range(0, len(data), max(1, len(data) // 100)):
        part.write_bytes(data[:length])
        assert f"{part}: damaged" in damage_report(tmp_path)


def test_foreign_file_is_named_beside_damaged_ones(tmp_path: Path) -> None:
    part = write_part(tmp_path, record_of(make_job()))
    part.write_bytes(b"")
    (tmp_path / "mine.parquet").write_bytes(b"x")
    report = damage_report(tmp_path)
    assert report.startswith("2 damaged or foreign files in the log:")
    assert "mine.parquet: not a part of the log" in report
    assert "a row whose record is gone renders again" in report


def test_part_of_another_schema_version_is_named_with_it(tmp_path: Path) -> None:
    from lynx_engine.digest import digest_bytes

    part = write_part(tmp_path, record_of(make_job()))
    pl.read_parquet(part).with_columns(schema_version=pl.lit(7)).drop("crf").write_parquet(
        tmp_path / "other"
    )
    data = (tmp_path / "other").read_bytes()
    (tmp_path / "other").unlink()
    stem = part.name.rpartition("-")[0]
    part.unlink()
    (tmp_path / f"{stem}-{digest_bytes(data)[:32]}.parquet").write_bytes(data)
    assert (
        "written with schema version 7, or other columns; this program reads version 1"
        in damage_report(tmp_path)
    )


def test_half_written_part_of_a_dead_writer_is_not_part_of_the_log(tmp_path: Path) -> None:
    write_part(tmp_path, record_of(make_job()))
    (tmp_path / ".part-x.parquet.123.tmp").write_bytes(b"half")
    assert len(read_parts(tmp_path)) == 1


def test_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_part(tmp_path, record_of(make_job()))
    assert list(tmp_path.iterdir()) == []


def test_history_keeps_the_latest_and_charges_no_interruption(tmp_path: Path) -> None:
    job = make_job()
    write_part(tmp_path, record_of(job, day=1, status="failed", code="encoder", clip=""))
    write_part(tmp_path, record_of(job, day=2, status="interrupted", clip=""))
    history = read_history(tmp_path)
    past = history.by_job[job.job_id]
    assert past.status is Status.INTERRUPTED
    assert history.latest[RowKey("none", "beach", 1, "tiny")] == past
    assert history.attempts == {job.job_id: 1}
    assert past.request["prompt"] == job.prompt
