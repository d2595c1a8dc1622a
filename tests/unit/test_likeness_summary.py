"""What the commands that look back make of recorded scores; the records are made here."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from lynx_engine.cli.likeness import likeness_columns, summarise_likeness
from lynx_engine.provenance.schema import record_columns
from tests.support.jobs import make_job, record_of

DLIB = {"evaluator": "dlib 20", "evaluator_calibration": "0.4: distance 0.6"}
OTHER = {"evaluator": "insightface 2", "evaluator_calibration": "uncalibrated"}


def log_of(*rows: dict[str, Any]) -> pl.DataFrame:
    """A log of clips, each of its own request unless it says its `seed`."""
    records = []
    for number, row in enumerate(rows):
        changes = dict(row)
        seed = changes.pop("seed", number)
        records.append(record_of(make_job(seed=seed), **changes))
    return pl.DataFrame(
        [{name: getattr(record, name) for name in record_columns()} for record in records],
        schema=record_columns(),
    )


def scored(mean: float | None, **more: object) -> dict[str, object]:
    return {**DLIB, "identity_mean": mean, "face_share": 0.0 if mean is None else 1.0, **more}


def test_clips_under_the_threshold_and_those_without_a_face_are_counted() -> None:
    log = log_of(scored(0.3), scored(0.4), scored(0.8), scored(None), {})
    (summary,) = summarise_likeness(log)
    assert summary.mean == pytest.approx(0.5)
    assert (summary.clips, summary.under, summary.no_face) == (4, 1, 1)
    assert str(summary) == (
        "likeness 0.50 in 4 clips, 1 under 0.4, 1 without a face; "
        "a face in 75% of the frames (dlib 20)"
    )


def test_scale_without_a_threshold_is_told_as_uncalibrated_and_never_mixed() -> None:
    dlib, other = summarise_likeness(log_of(scored(0.3), scored(0.9, **OTHER)))
    assert (dlib.mean, dlib.under) == (0.3, 1)
    assert (other.mean, other.under, other.threshold) == (0.9, None, None)
    assert str(other) == (
        "likeness 0.90 in 1 clip, uncalibrated; a face in 100% of the frames (insightface 2)"
    )


def test_only_the_latest_clip_of_a_request_counts_and_tries_without_one_do_not() -> None:
    log = log_of(scored(0.1, seed=7), scored(0.2, seed=7), scored(0.9, seed=7, clip=""))
    (summary,) = summarise_likeness(log)
    assert (summary.clips, summary.mean) == (1, 0.2)


def test_clip_that_was_removed_because_a_later_try_was_withheld_does_not_count() -> None:
    kept, weak = scored(0.9, seed=1), scored(0.1, seed=7)
    log = log_of(kept, weak, {"seed": 7, "status": "withheld", "code": "safety", "clip": ""})
    (summary,) = summarise_likeness(log)
    assert (summary.clips, summary.mean) == (1, 0.9)


def test_requests_that_the_manifest_does_not_make_are_left_out() -> None:
    log = log_of(scored(0.1), scored(0.9))
    (summary,) = summarise_likeness(log, {log["job_id"][1]})
    assert (summary.clips, summary.mean) == (1, 0.9)
    assert summarise_likeness(log, frozenset()) == []


def test_campaign_that_shows_nobody_has_no_mean() -> None:
    (summary,) = summarise_likeness(log_of(scored(None), scored(None)))
    assert summary.mean is None
    assert str(summary) == "likeness unknown, no face in 2 clips (dlib 20)"


def test_columns_tell_scores_no_face_and_nothing() -> None:
    drifting = scored(0.456, identity_min=0.2, identity_slope=-0.125, face_share=0.75)
    log = log_of(drifting, scored(None), scored(-0.02), {})
    assert log.select(**likeness_columns()).rows() == [
        ("0.46", "0.20", "-0.12", "75%"),
        ("no face", "", "", "0%"),
        ("-0.02", "", "", "100%"),
        ("", "", "", ""),
    ]
    assert log.clear().select(**likeness_columns()).height == 0


def test_the_least_frame_of_all_clips_and_the_mean_slope_are_told() -> None:
    one = scored(0.6, identity_min=0.5, identity_slope=-0.2, face_share=1.0)
    other = scored(0.4, identity_min=0.1, identity_slope=0.1, face_share=0.5)
    (summary,) = summarise_likeness(log_of(one, other, scored(None)))
    assert (summary.least, summary.face_share) == (0.1, 0.5)
    assert summary.slope_per_s == pytest.approx(-0.05)
    frames = "; least 0.10, slope -0.05/s, a face in 50% of the frames (dlib 20)"
    assert str(summary) == f"likeness 0.50 in 3 clips, 0 under 0.4, 1 without a face{frames}"
