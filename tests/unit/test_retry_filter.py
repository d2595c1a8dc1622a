"""Which rows `retry` takes up, and which moments `--since` understands."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lynx_engine.cli.retry import _filter_of, read_moment
from lynx_engine.errors import RefusedError
from lynx_engine.history import RetryFilter
from lynx_engine.jobs import PastResult, Status
from tests.support.jobs import make_job

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
JOB = make_job()


def failure(finished_at: str) -> PastResult:
    return PastResult(
        job_id=JOB.job_id,
        row_key=JOB.row_key,
        status=Status.FAILED,
        code="encoder",
        message="broke",
        clip="",
        request=JOB.request(),
        finished_at=finished_at,
    )


@pytest.mark.parametrize(
    ("finished_at", "selected"),
    [
        ("2026-11-22T15:59:59.999999+00:00", False),
        ("2026-11-22T16:00:00+00:00", True),
        ("2026-11-22T17:30:00.250000+00:00", True),
        ("2026-11-22T17:30:00+02:00", False),
    ],
)
def test_only_rows_that_ended_since_are_selected(finished_at: str, selected: bool) -> None:
    since = NOW - timedelta(hours=2)
    assert RetryFilter(since=since).selects(JOB, failure(finished_at)) is selected
    assert RetryFilter().selects(JOB, failure(finished_at))


def test_withheld_row_is_never_selected_and_asking_for_it_says_why() -> None:
    flagged = replace(failure("2026-11-22T17:30:00+00:00"), status=Status.WITHHELD, code="safety")
    every = frozenset(status.value for status in Status)
    assert not RetryFilter(statuses=every, codes=frozenset({"safety"})).selects(JOB, flagged)
    with pytest.raises(RefusedError, match="runs again only when its request changes"):
        _filter_of(["withheld"], [], [], None)


def test_since_narrows_the_other_choices_and_widens_none() -> None:
    past = failure("2026-11-22T17:30:00+00:00")
    since = NOW - timedelta(hours=2)
    assert RetryFilter(since=since, codes=frozenset({"encoder"})).selects(JOB, past)
    assert not RetryFilter(since=since, codes=frozenset({"weights"})).selects(JOB, past)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("45min", NOW - timedelta(minutes=45)),
        ("2h", NOW - timedelta(hours=2)),
        ("3 d", NOW - timedelta(days=3)),
        ("2026-11-22T16:30Z", datetime(2026, 11, 22, 16, 30, tzinfo=UTC)),
        ("2026-11-22T16:30+02:00", datetime(2026, 11, 22, 14, 30, tzinfo=UTC)),
        ("2026-11-20", datetime(2026, 11, 20).astimezone()),
        ("2026-11-20 08:15", datetime(2026, 11, 20, 8, 15).astimezone()),
    ],
)
def test_moment_is_a_time_ago_or_an_iso_date(text: str, moment: datetime) -> None:
    assert read_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "2", "yesterday", "2w", "-2h", "22.11.2026", "999999d"])
def test_other_words_are_refused_with_examples(text: str) -> None:
    told = read_moment(text, NOW)
    assert isinstance(told, str)
    assert "45min, 2h or 3d" in told
    assert "2026-11-22T18:30" in told


def test_moment_ahead_is_refused() -> None:
    assert read_moment("2026-11-23", NOW) == "'2026-11-23' lies ahead; no row ended since"
