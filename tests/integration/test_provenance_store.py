"""The log through real parquet: what is written comes back, and no damage passes unseen."""

from __future__ import annotations

import json
import stat
from dataclasses import asdict, fields
from pathlib import Path

import polars as pl
import pytest

from lynx_engine import __version__
from lynx_engine.errors import DamagedError, ErrorCode, ExitCode
from lynx_engine.jobs import REQUEST_FIELDS, RowKey, Status
from lynx_engine.provenance.environment import keyed_digest, make_workspace_key
from lynx_engine.provenance.past import read_history
from lynx_engine.provenance.record import make_record
from lynx_engine.provenance.schema import ProvenanceRecord, record_columns
from lynx_engine.provenance.store import prepare_part, read_parts, write_part
from lynx_engine.results import Failed, Interrupted
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


def test_foreign_file_is_named_beside_damaged_ones(tmp_path: Path) -> None:
    part = write_part(tmp_path, record_of(make_job()))
    part.write_bytes(b"")
    (tmp_path / "mine.parquet").write_bytes(b"x")
    report = damage_report(tmp_path)
    assert report.startswith("2 damaged, missing or foreign files in the log:")
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
    (tmp_path / "index").unlink()
    (tmp_path / f"{stem}-{digest_bytes(data)[:32]}.parquet").write_bytes(data)
    assert (
        f"written with schema version 7 by lynx_engine {__version__}; this program reads version "
        "1. Upgrade lynx_engine." in damage_report(tmp_path)
    )


def test_half_written_part_of_a_dead_writer_is_not_part_of_the_log(tmp_path: Path) -> None:
    write_part(tmp_path, record_of(make_job()))
    (tmp_path / ".part-x.parquet.123.tmp").write_bytes(b"half")
    assert len(read_parts(tmp_path)) == 1


def test_prepared_part_enters_the_log_when_it_is_committed(tmp_path: Path) -> None:
    write_part(tmp_path, record_of(make_job(seed=1), day=1))
    part = prepare_part(tmp_path, record_of(make_job(seed=2), day=2))
    assert read_parts(tmp_path)["seed"].to_list() == [1]
    assert part.commit() == part.path
    assert read_parts(tmp_path)["seed"].to_list() == [1, 2]
    part.discard()
    assert read_parts(tmp_path)["seed"].to_list() == [1, 2]
    files = sorted(p.name for p in tmp_path.glob("part-*"))
    assert sorted((tmp_path / "index").read_text().splitlines()) == files


def test_discarded_part_leaves_nothing_behind(tmp_path: Path) -> None:
    part = prepare_part(tmp_path, record_of(make_job()))
    assert part.path.name in part.temp.name
    part.discard()
    assert list(tmp_path.iterdir()) == []


def test_log_of_a_version_without_an_index_is_read(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_part(tmp_path, record_of(make_job(seed=seed), day=seed))
    (tmp_path / "index").unlink()
    assert read_parts(tmp_path)["seed"].to_list() == [1, 2]


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


@pytest.mark.parametrize(
    ("ends", "deaths"),
    [
        (["worker_died"], 1),
        (["worker_died", "worker_died"], 2),
        (["worker_died", "worker_died", "encoder"], 0),
        (["worker_died", "encoder", "worker_died"], 1),
        (["worker_died", "interrupted", "worker_died"], 1),
        (["worker_died", "worker_died", "rendered"], 0),
    ],
)
def test_history_counts_the_deaths_in_a_row_at_the_end(
    tmp_path: Path, ends: list[str], deaths: int
) -> None:
    job, other = make_job(), make_job(seed=2)
    write_part(tmp_path, record_of(other, day=9, status="failed", code="worker_died", clip=""))
    for day, end in enumerate(ends, start=1):
        is_status = end in set(Status)
        status, code = (end, "") if is_status else ("failed", end)
        clip = job.clip_name if end == "rendered" else ""
        write_part(tmp_path, record_of(job, day=day, status=status, code=code, clip=clip))
    history = read_history(tmp_path)
    assert history.by_job[job.job_id].deaths == deaths
    assert history.by_job[other.job_id].deaths == 1


def test_history_tells_the_request_and_the_clip_of_each_row(tmp_path: Path) -> None:
    job = make_job()
    write_part(tmp_path, record_of(job))
    history = read_history(tmp_path)
    past = history.by_job[job.job_id]
    assert past.request == job.request() | {"subject_digest": ""}
    assert (past.row_key, past.clip) == (job.row_key, job.clip_name)
    assert past.finished_at == "2026-11-01T12:00:00.250000+00:00"
    assert history.clip_bytes == {job.clip_name: 1000}
