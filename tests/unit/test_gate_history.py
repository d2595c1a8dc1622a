"""What the log's tries mean for the next run: which seed comes next, and when a row is through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from lynx_engine.errors import ErrorCode, ExitCode
from lynx_engine.gate import NO_FACE, IdentityGate, reseed
from lynx_engine.history import Past, RetryFilter, sort_by_past, without_finished
from lynx_engine.jobs import PlannedJob, Reason, RenderPlan, Status
from lynx_engine.outcomes import idle_summary
from lynx_engine.provenance.past import read_history
from lynx_engine.provenance.schema import ProvenanceRecord
from lynx_engine.provenance.store import write_part
from tests.support.jobs import make_job, record_of

GATE = IdentityGate(0.55, 3, "best", "dlib 20")
JOB = make_job(seed=5, subject="host", gate=str(GATE))
CLIP = JOB.clip_name
LOW = Status.LOW_IDENTITY


def record(
    day: int, status: Status, number: int, score: float | None, clip: str
) -> ProvenanceRecord:
    return record_of(
        JOB,
        day=day,
        status=status.value,
        gate_try=number,
        rendered_seed=reseed(5, number),
        identity_mean=score,
        clip=clip,
        code="encoder" if status is Status.FAILED else "",
    )


def past(folder: Path, *records: ProvenanceRecord, there: bool = True) -> Past:
    for one in records:
        write_part(folder, one)
    known = read_history(folder)
    clips = frozenset(known.clip_bytes) if there else frozenset[str]()
    return Past(known.latest, known.by_job, known.attempts, clips)


def judged(known: Past, retry: RetryFilter | None = None) -> PlannedJob | str:
    to_run, done, _, _ = sort_by_past([JOB], known, retry)
    return to_run[0] if to_run else "done" if done else "held"


def seeds(planned: PlannedJob | str) -> tuple[int, int, float | None]:
    assert isinstance(planned, PlannedJob)
    return planned.first_try, planned.last_try, planned.best_score


FIRST = record(1, LOW, 1, 0.41, CLIP)
WORSE = record(2, LOW, 2, 0.30, "")
BETTER = record(2, LOW, 2, 0.50, CLIP)
THIRD = record(3, LOW, 3, None, "")


def test_a_row_stopped_amid_its_seeds_goes_on_with_the_next_and_says_how_far_it_came(
    tmp_path: Path,
) -> None:
    planned = judged(past(tmp_path, FIRST))
    assert seeds(planned) == (2, 3, 0.41)
    assert isinstance(planned, PlannedJob)
    assert (planned.reason, planned.attempt) == (Reason.LOW_IDENTITY, 2)
    assert planned.why == "identity 0.41 of 0.55 after 1 seed, 2 left"


def test_the_score_to_beat_is_that_of_the_published_clip_not_of_the_latest_try(
    tmp_path: Path,
) -> None:
    assert seeds(judged(past(tmp_path / "worse", FIRST, WORSE))) == (3, 3, 0.41)
    assert seeds(judged(past(tmp_path / "better", FIRST, BETTER))) == (3, 3, 0.50)
    faceless = record(1, LOW, 1, None, CLIP)
    assert seeds(judged(past(tmp_path / "none", faceless))) == (2, 3, NO_FACE)


def test_a_row_that_used_up_its_seeds_is_done_until_it_is_retried(tmp_path: Path) -> None:
    known = past(tmp_path, FIRST, WORSE, THIRD)
    assert judged(known) == "done"
    latest = known.by_job[JOB.job_id]
    assert (latest.status, latest.clip, latest.tries, latest.best_score) == (LOW, CLIP, 3, 0.41)
    retried = judged(known, RetryFilter(statuses=frozenset({"low_identity"})))
    assert seeds(retried) == (4, 6, 0.41)
    assert isinstance(retried, PlannedJob)
    assert retried.why == "retry: low identity 0.41 of 0.55 after 3 seeds"
    assert judged(known, RetryFilter(statuses=frozenset({"failed"}))) == "done"


def test_a_retry_that_was_stopped_is_taken_to_the_end_of_its_share(tmp_path: Path) -> None:
    known = past(tmp_path, FIRST, WORSE, THIRD, record(4, LOW, 4, 0.2, ""))
    assert seeds(judged(known)) == (5, 6, 0.41)


def test_a_row_whose_clip_is_gone_begins_with_its_first_seed(tmp_path: Path) -> None:
    known = past(tmp_path, FIRST, BETTER, there=False)
    planned = judged(known)
    assert seeds(planned) == (1, 3, None)
    assert isinstance(planned, PlannedJob)
    assert planned.reason is Reason.MISSING_CLIP
    assert planned.why == f"clip missing: {CLIP} is no longer in outputs"


def test_a_row_that_began_again_counts_its_seeds_anew(tmp_path: Path) -> None:
    known = past(tmp_path, FIRST, BETTER, THIRD, record(4, LOW, 1, 0.41, CLIP))
    assert seeds(judged(known)) == (2, 3, 0.41)


@pytest.mark.parametrize("status", [Status.FAILED, Status.INTERRUPTED])
def test_a_failure_amid_a_try_keeps_the_tries_number(tmp_path: Path, status: Status) -> None:
    known = past(tmp_path, FIRST, record(2, status, 2, None, ""))
    assert seeds(judged(known)) == (2, 3, 0.41)
    known = past(tmp_path / "first", record(1, status, 1, None, ""))
    assert seeds(judged(known)) == (1, 3, None)


def test_a_row_that_passed_is_done_and_one_that_lost_its_clip_keeps_no_score(
    tmp_path: Path,
) -> None:
    passed = record(2, Status.RENDERED, 2, 0.7, CLIP)
    assert judged(past(tmp_path / "a", FIRST, passed)) == "done"
    # Its clip was lost, the rendering after it failed, and somebody laid the clip back.
    failed = record(3, Status.FAILED, 1, None, "")
    assert seeds(judged(past(tmp_path / "b", FIRST, passed, failed))) == (1, 3, None)


def test_more_attempts_make_another_request_and_the_reason_names_the_gate(tmp_path: Path) -> None:
    known = past(tmp_path, FIRST, WORSE, THIRD)
    more = replace(JOB, gate=str(replace(GATE, attempts=5)))
    to_run, _, _, _ = sort_by_past([more], known, None)
    assert seeds(to_run[0]) == (1, 5, None)
    assert to_run[0].why == (
        "changed: identity gate '0.55, 3 seeds, best; by dlib 20' -> "
        "'0.55, 5 seeds, best; by dlib 20'"
    )


def planned_before(known: Past, retry: RetryFilter | None = None) -> RenderPlan:
    to_run, done, held, _ = sort_by_past([JOB], known, retry)
    return RenderPlan("trial", tuple(to_run), tuple(done), tuple(held))


def test_a_record_put_in_place_since_the_plan_was_made_counts(tmp_path: Path) -> None:
    plan = planned_before(Past())
    (one,) = without_finished(plan, past(tmp_path, FIRST)).to_run
    assert (seeds(one), one.attempt) == ((2, 3, 0.41), 2)
    now = without_finished(plan, past(tmp_path, WORSE, THIRD))
    assert (now.to_run, now.done, now.low_identity) == ((), (JOB,), (JOB,))
    now = without_finished(plan, past(tmp_path, record(4, Status.RENDERED, 4, 0.7, CLIP)))
    assert (now.to_run, now.done, now.low_identity) == ((), (JOB,), ())


def test_a_retry_that_another_run_has_made_since_is_not_made_again(tmp_path: Path) -> None:
    known = past(tmp_path, FIRST, WORSE, THIRD)
    plan = planned_before(known, RetryFilter())
    assert without_finished(plan, known).to_run == plan.to_run
    fourth = past(tmp_path, record(4, LOW, 4, 0.1, ""))
    assert [seeds(p) for p in without_finished(plan, fourth).to_run] == [(5, 6, 0.41)]
    sixth = past(tmp_path, record(5, LOW, 5, 0.1, ""), record(6, LOW, 6, 0.1, ""))
    assert without_finished(plan, sixth).low_identity == (JOB,)


def test_a_row_that_another_run_has_withheld_since_is_held_and_takes_no_further_seed(
    tmp_path: Path,
) -> None:
    known = past(tmp_path, FIRST)
    withheld = replace(record(2, Status.WITHHELD, 2, None, ""), code=ErrorCode.SAFETY.value)
    for plan in (planned_before(Past()), planned_before(known)):
        assert len(plan.to_run) == 1
        now = without_finished(plan, past(tmp_path, withheld))
        assert (now.to_run, now.done) == ((), ())
        (held,) = now.held
        assert (held.job, held.withheld) == (JOB, True)
        assert idle_summary(now, tmp_path).exit_code == ExitCode.ROWS_FAILED


def test_a_death_amid_a_try_is_forgotten_once_a_try_has_rendered(tmp_path: Path) -> None:
    died = record(2, Status.FAILED, 2, None, "")
    died = replace(died, code=ErrorCode.WORKER_DIED.value)
    assert past(tmp_path, FIRST, died).by_job[JOB.job_id].deaths == 1
    after = past(tmp_path, replace(THIRD, gate_try=2))
    assert after.by_job[JOB.job_id].deaths == 0


def test_a_log_older_than_the_gate_is_read_as_one_without(tmp_path: Path) -> None:
    plain = make_job(seed=9)
    write_part(tmp_path, record_of(plain))
    part = next(tmp_path.glob("part-*"))
    old = pl.read_parquet(part).drop("gate", "gate_try", "rendered_seed", "identity_mean")
    assert "gate_try" not in old.columns
    from lynx_engine.provenance.past import history_of
    from lynx_engine.provenance.store import decode

    data = tmp_path / "old.parquet"
    old.write_parquet(data)
    frame = decode(data, data.read_bytes())
    assert isinstance(frame, pl.DataFrame)
    found = history_of(frame).by_job[plain.job_id]
    assert (found.tries, found.best_score, found.clip) == (0, None, plain.clip_name)
