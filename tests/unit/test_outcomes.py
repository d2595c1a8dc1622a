"""How rows are counted and what the shell hears."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lynx_engine.errors import ErrorCode, Problem
from lynx_engine.jobs import HeldJob, RenderPlan
from lynx_engine.outcomes import CampaignSummary, Outcomes, idle_summary
from lynx_engine.results import Failed, Interrupted, Withheld
from tests.support.jobs import make_job, plan_of, planned, rendered

CLIPS = Path("outputs/trial/clips")
JOBS = [make_job(seed=seed) for seed in range(6)]
ROWS = [planned(job) for job in JOBS]
IDLE = idle_summary(plan_of(*JOBS), CLIPS)


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        ({}, 0),
        ({"failed": 2}, 1),
        ({"withheld": 1}, 1),
        ({"withheld": 1, "interrupted": 4, "paused": "the disk is full"}, 5),
        ({"failed": 1, "bugs": 1}, 3),
        ({"interrupted": 1}, 3),
        ({"interrupted": 4, "paused": "the disk is full"}, 5),
        ({"failed": 1, "interrupted": 4, "paused": "the disk is full"}, 5),
        ({"bugs": 1, "failed": 1, "paused": "the disk is full"}, 3),
        ({"interrupted": 4, "stopped_by": 2}, 130),
        ({"interrupted": 4, "bugs": 1, "paused": "full", "stopped_by": 15}, 143),
    ],
)
def test_shell_hears_of_signals_first_then_bugs_then_pauses_then_failed_rows(
    ended: dict[str, int | str], code: int
) -> None:
    summary: CampaignSummary = replace(IDLE, **ended)  # pyright: ignore[reportArgumentType]
    assert summary.exit_code == code


def test_plan_of_which_nothing_ran_counts_what_was_done_held_or_not_planned() -> None:
    plan = RenderPlan(
        "trial",
        to_run=(),
        done=(JOBS[0], JOBS[1]),
        held=(HeldJob(JOBS[2], "quarantined"),),
        problems=(Problem("trial.yaml:7", "no face"), Problem("trial.yaml:9", "no face")),
    )
    summary = idle_summary(plan, CLIPS)
    assert (summary.done_before, summary.failed, summary.rendered) == (2, 3, 0)
    assert summary.exit_code == 1


def test_rows_are_counted_by_how_they_ended_and_the_rest_is_left_for_the_next_run() -> None:
    outcomes = Outcomes()
    outcomes.add(ROWS[0], rendered(JOBS[0]))
    outcomes.add(ROWS[1], Failed(ErrorCode.ENCODER, "ffmpeg exited with 1"))
    outcomes.add(ROWS[2], Failed(ErrorCode.INTERNAL, "a bug"))
    outcomes.add(ROWS[3], Interrupted())
    outcomes.add(ROWS[4], Withheld("opennsfw saw 0.9"))
    summary = outcomes.fill(replace(IDLE, failed=10, withheld=1), planned=6)
    assert (summary.rendered, summary.failed, summary.interrupted, summary.bugs) == (1, 12, 2, 1)
    assert summary.withheld == 2
    assert summary.failures == {
        JOBS[1].clip_name: "encoder: ffmpeg exited with 1",
        JOBS[2].clip_name: "internal: a bug",
        JOBS[4].clip_name: "withheld: opennsfw saw 0.9",
    }


def test_rows_under_the_identity_gate_are_counted_apart_and_are_no_success() -> None:
    outcomes = Outcomes()
    outcomes.add(ROWS[0], rendered(JOBS[0]))
    outcomes.add(ROWS[1], replace(rendered(JOBS[1]), low_identity=True))
    outcomes.add(ROWS[2], replace(rendered(JOBS[2]), low_identity=True, clip=""))
    summary = outcomes.fill(replace(IDLE, low_identity=4), planned=3)
    assert (summary.rendered, summary.low_identity, summary.interrupted) == (1, 6, 0)
    assert summary.exit_code == 1


def test_plan_of_which_nothing_ran_is_no_success_while_a_done_row_is_under_the_gate() -> None:
    plan = RenderPlan("trial", to_run=(), done=(JOBS[0],), held=(), low_identity=(JOBS[0],))
    summary = idle_summary(plan, CLIPS)
    assert (summary.done_before, summary.low_identity, summary.exit_code) == (1, 1, 1)


def test_failure_taken_back_is_none_until_the_row_ends_again() -> None:
    outcomes = Outcomes()
    died = Failed(ErrorCode.WORKER_DIED, "its process died")
    outcomes.add(ROWS[0], died)
    outcomes.add(ROWS[1], rendered(JOBS[1]))
    outcomes.add(ROWS[2], Interrupted())
    ids = [job.job_id for job in JOBS]
    assert outcomes.take_back(ids) == [ROWS[0]], "the others did not fail, or did not end yet"
    assert outcomes.take_back(ids) == []
    assert outcomes.fill(IDLE, planned=3).failures == {}
    assert outcomes.fill(IDLE, planned=3).interrupted == 2
    outcomes.add(ROWS[0], rendered(JOBS[0]))
    assert outcomes.fill(IDLE, planned=3).rendered == 2


def test_results_of_many_threads_are_all_there() -> None:
    outcomes = Outcomes()
    rows = [planned(make_job(seed=seed)) for seed in range(400)]
    bug = Failed(ErrorCode.INTERNAL, "a bug")
    ready = threading.Barrier(8)

    def add(part: int) -> None:
        ready.wait(10)
        for row in rows[part::8]:
            outcomes.add(row, bug)

    threads = [threading.Thread(target=add, args=(part,), daemon=True) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert outcomes.bugs == 400
    assert {row.job.seed for row, _ in outcomes.results()} == set(range(400))
