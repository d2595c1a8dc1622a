"""What the report says of a log: how each row stands, what counts, and what the time went to."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

import polars as pl
import pytest

from lynx_engine.errors import ErrorCode
from lynx_engine.jobs import Status
from lynx_engine.provenance.schema import ProvenanceRecord, record_columns
from lynx_engine.report.details import (
    ADVICE,
    MEANING,
    commands_of,
    details_of,
    sections,
    what_to_do,
)
from lynx_engine.report.report_charts import LEFT, RIGHT, chart_likeness, chart_stages
from lynx_engine.report.report_data import STATUSES, Report, Row, gather_report
from tests.support.jobs import make_job, record_of

BEGIN = datetime(2026, 11, 20, 20, 0, tzinfo=UTC)
_VALUES = attrgetter(*record_columns())


def log_of(records: Sequence[ProvenanceRecord]) -> pl.DataFrame:
    return pl.DataFrame(
        [_VALUES(record) for record in records], schema=dict(record_columns()), orient="row"
    )


def made(
    number: int, *, run: str = "r1", minute: float = 0.0, **changes: object
) -> ProvenanceRecord:
    """Return a rendered attempt at the job of seed `number`, a minute long."""
    start = BEGIN + timedelta(minutes=minute)
    record = record_of(make_job(seed=number), run_id=run)
    times = {"started_at": start, "finished_at": start + timedelta(minutes=1), "total_s": 60.0}
    return replace(record, **{**times, **changes})


def failed(number: int, code: str, **changes: object) -> ProvenanceRecord:
    """Return a failed attempt likewise: it left no clip, and nobody noted its device."""
    nothing = {"clip": "", "clip_digest": "", "device": "", "device_name": "", "denoise_s": 0.0}
    words = {"status": "failed", "code": code, "message": f"{code} happened"}
    return made(number, **{**nothing, **words, **changes})


def report_of(*records: ProvenanceRecord, lost: Sequence[str] = (), **options: int) -> Report:
    clips = {record.clip for record in records if record.clip}.difference(lost)
    return gather_report("trial", log_of(records), clips=clips, **options)


def only_row(*records: ProvenanceRecord) -> Row:
    (row,) = report_of(*records).rows
    return row


def test_a_campaign_that_never_ran_has_an_empty_report() -> None:
    report = report_of()
    assert (report.rows, report.runs, report.wall_s, report.gpu_s) == ((), 0, 0, 0)
    assert report.started_at is None
    assert chart_likeness(report.rows) is chart_stages(report.rows) is None


def test_latest_attempt_says_how_a_row_stands() -> None:
    row = only_row(failed(1, "encoder"), made(1, minute=2, attempt=2))
    assert row.status == Status.RENDERED
    assert row.is_good
    assert [attempt.status for attempt in row.attempts] == ["failed", "rendered"]


def test_row_that_failed_later_still_shows_the_clip_it_had() -> None:
    first = made(1, status="low_identity", identity_mean=0.4)
    row = only_row(first, failed(1, "encoder", minute=2, attempt=2))
    assert (row.status, row.clip, row.is_there) == ("failed", first.clip, True)
    assert row.record["code"] == "encoder"
    assert row.made["identity_mean"] == 0.4


def test_try_that_was_no_better_leaves_the_scores_of_the_clip_that_is_there() -> None:
    best = made(1, status="low_identity", identity_mean=0.5, gate_try=1)
    worse = made(1, status="low_identity", identity_mean=0.3, gate_try=2, minute=2, clip="")
    row = only_row(best, worse)
    assert (row.clip, row.made["identity_mean"]) == (best.clip, 0.5)


def test_withheld_row_shows_no_clip_of_an_earlier_attempt() -> None:
    withheld = failed(1, "safety", status="withheld", minute=2, attempt=2)
    row = only_row(made(1), withheld)
    assert (row.status, row.clip, row.is_there) == ("withheld", "", False)


def test_row_whose_clip_was_deleted_is_not_good() -> None:
    record = made(1)
    (row,) = report_of(record, lost=[record.clip]).rows
    assert (row.status, row.is_there, row.is_good) == ("rendered", False, False)
    assert "gone" in what_to_do(row)


@pytest.mark.parametrize("status", ["rendered", "low_identity"])
def test_row_without_its_clip_is_told_how_to_get_it_again(status: str) -> None:
    gone = made(1, status=status)
    (row,) = report_of(gone, lost=[gone.clip]).rows
    assert what_to_do(row) == "Its clip is gone; `render` makes it again."


def test_row_that_killed_two_workers_is_quarantined() -> None:
    deaths = [failed(1, "worker_died", minute=n, attempt=n + 1) for n in range(2)]
    assert only_row(deaths[0]).status == "failed"
    assert only_row(*deaths).status == "quarantined"


def test_edited_row_replaces_its_older_request() -> None:
    old = failed(1, "encoder")
    new = replace(
        made(1, run="r2", minute=5), prompt="A walk in the rain.", job_id="f" * 64, clip="new.mp4"
    )
    report = report_of(old, new)
    assert [(row.job_id, row.is_older) for row in report.rows] == [
        (old.job_id, True),
        (new.job_id, False),
    ]
    assert report.statuses == {"rendered": 1}
    assert report.codes == {}


def test_rows_that_share_their_names_are_both_current_and_an_edit_replaces_the_nearer() -> None:
    plain = made(1)
    lora = replace(made(1, minute=1), loras="abc@1.0", job_id="b" * 64, clip="lora.mp4")
    edited = replace(
        made(1, run="r2", minute=5), loras="abc@0.5", job_id="d" * 64, clip="edited.mp4"
    )
    assert not any(row.is_older for row in report_of(plain, lora).rows)
    older = {row.job_id: row.is_older for row in report_of(plain, lora, edited).rows}
    assert older == {plain.job_id: False, lora.job_id: True, edited.job_id: False}


def test_request_that_comes_back_is_current_again() -> None:
    old = made(1)
    new = replace(made(1, run="r2", minute=5), steps=9, job_id="f" * 64, clip="new.mp4")
    again = made(1, run="r3", minute=10, attempt=2)
    older = {row.job_id: row.is_older for row in report_of(old, new, again).rows}
    assert older == {old.job_id: False, new.job_id: True}


def test_totals_count_every_current_row_once() -> None:
    report = report_of(
        *(made(n, minute=n) for n in range(5)),
        failed(5, "encoder", minute=5),
        failed(6, "encoder", minute=6),
        failed(7, "bad_frames", minute=7),
        failed(8, "safety", status="withheld", minute=8),
        failed(9, "", status="interrupted", minute=9),
        made(10, status="low_identity", minute=10),
    )
    assert report.statuses == {
        "failed": 3,
        "withheld": 1,
        "low_identity": 1,
        "interrupted": 1,
        "rendered": 5,
    }
    assert report.codes == {"encoder": 2, "bad_frames": 1, "safety": 1}
    assert list(report.statuses) == [word for word in STATUSES if word in report.statuses]


def test_wall_time_is_each_runs_own_span_without_the_pause_between() -> None:
    report = report_of(made(1), made(2, minute=0.5), made(3, run="r2", minute=600))
    assert report.runs == 2
    assert report.wall_s == 90 + 60


def test_gpu_time_is_the_stages_that_hold_a_gpu_by_its_name() -> None:
    held: dict[str, Any] = {
        "load_s": 1.0,
        "text_s": 2.0,
        "subject_s": 3.0,
        "denoise_s": 20.0,
        "decode_s": 4.0,
    }
    beside: dict[str, Any] = {"encode_s": 50.0, "check_s": 5.0, "safety_s": 5.0, "score_s": 5.0}
    h200: dict[str, Any] = {"device_name": "NVIDIA H200", **held, **beside}
    report = report_of(
        made(1, device="cuda:0", **h200),
        made(2, device="cuda:1", minute=1, **h200),
        made(3, minute=2, device_name="Xeon", **held),
        failed(4, "encoder", minute=3),
    )
    assert report.gpu_s == 60
    assert [(d.name, d.is_gpu, d.attempts, d.seconds) for d in report.devices] == [
        ("NVIDIA H200", True, 2, 60.0),
        ("", False, 1, 60.0),
        ("Xeon", False, 1, 30.0),
    ]


def test_too_many_rows_leave_out_the_oldest_good_ones_only() -> None:
    rows = [made(n, minute=n) for n in range(8)] + [failed(8, "io", minute=8)]
    report = report_of(*rows, most_rows=4)
    assert [row.record["seed"] for row in report.rows] == [5, 6, 7, 8]
    assert report.left_out == 5
    assert report.statuses == {"failed": 1, "rendered": 8}
    assert len(report_of(*(failed(n, "io", minute=n) for n in range(6)), most_rows=4).rows) == 6


def test_every_error_code_and_status_has_words_for_a_person() -> None:
    assert set(ADVICE) == set(ErrorCode)
    assert set(MEANING) == set(STATUSES)


@pytest.mark.parametrize(
    ("record", "first"),
    [
        (failed(1, "encoder"), "lynx-engine retry trial.yaml --row {id}"),
        (made(1, status="low_identity"), "lynx-engine retry trial.yaml --row {id}"),
        (failed(1, "", status="interrupted"), "lynx-engine render trial.yaml"),
        (failed(1, "safety", status="withheld"), "lynx-engine show {id}"),
        (failed(1, "io", where="my $(x).yaml:7"), "lynx-engine retry 'my $(x).yaml' --row {id}"),
    ],
    ids=["failed", "low identity", "interrupted", "withheld", "odd name"],
)
def test_command_that_mends_a_row_comes_first(record: ProvenanceRecord, first: str) -> None:
    (_, command), *_rest = commands_of(only_row(record))
    assert command == first.format(id=record.job_id[:12])


def test_details_tell_values_with_units_and_nothing_of_the_photo() -> None:
    digest = "5ec12e7" * 9
    record = made(
        1,
        subject_digest=digest,
        peak_memory_bytes=13_900_000_000,
        weights=json.dumps({"base": "ab"}),
        photos=json.dumps(["photos/secret.jpg"]),
    )
    row = only_row(record)
    told = {
        label: text
        for (_, labels), texts in zip(sections(), details_of(row), strict=True)
        for label, text in zip(labels, texts, strict=True)
    }
    assert told["peak memory"] == "13.9 GB"
    assert told["weights"] == "base: ab"
    assert told["codec"] == "h264, crf 18"
    assert told["likeness, mean"] == ""
    shown = " ".join(told.values())
    assert digest not in shown
    assert "secret" not in shown


def test_likeness_chart_places_means_as_the_comparison_table_has_them() -> None:
    random.seed(7)
    scored = {"evaluator": "dlib 20", "evaluator_calibration": "0.6: LFW"}
    records = [
        made(n, minute=n, prompt_name=f"p{n}", identity_mean=random.uniform(0.4, 0.9), **scored)
        for n in range(9)
    ]
    other = made(9, minute=9, evaluator="another", identity_mean=12.0)
    chart = chart_likeness(report_of(*records, other).rows)
    assert chart is not None
    (lane,) = chart.lanes
    mean = sum(r.identity_mean or 0 for r in records) / 9
    assert lane.estimate.mean == pytest.approx(mean)
    assert (lane.clips, chart.left_out) == (9, 1)
    low, high = float(chart.ticks[0].text), float(chart.ticks[-1].text)
    assert lane.mean == pytest.approx(LEFT + (mean - low) / (high - low) * (RIGHT - LEFT), abs=0.1)
    assert chart.threshold == pytest.approx(
        LEFT + (0.6 - low) / (high - low) * (RIGHT - LEFT), abs=0.1
    )
    assert lane.low is not None
    assert lane.high is not None
    assert LEFT <= lane.low < lane.mean < lane.high <= RIGHT
    assert lane.dots.count("M") == 9


def test_stage_bars_are_mean_seconds_laid_end_to_end() -> None:
    records = [
        made(n, minute=n, load_s=0.0, denoise_s=seconds, decode_s=2.0)
        for n, seconds in enumerate((10.0, 20.0))
    ]
    chart = chart_stages(report_of(*records, failed(3, "io", minute=3)).rows)
    assert chart is not None
    assert chart.stages == ("denoise", "decode")
    (bar,) = chart.bars
    assert (bar.seconds, bar.clips) == (17.0, 2)
    denoise, decode = bar.pieces
    assert (denoise.seconds, decode.seconds) == (15.0, 2.0)
    assert decode.x == pytest.approx(denoise.x + denoise.width)
    assert denoise.width / decode.width == pytest.approx(7.5, rel=0.02)
