"""The identity gate in a campaign: real folders, clips and records, scores by script.

The oracle of a row's end is a plain loop over the seeds and their scores.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from lynx_engine.digest import digest_file
from lynx_engine.errors import ErrorCode, ExitCode, RowError
from lynx_engine.gate import IdentityGate, reseed
from lynx_engine.history import RetryFilter
from lynx_engine.jobs import PlannedJob, RenderJob, RenderPlan
from lynx_engine.orders import RenderTask
from lynx_engine.outcomes import idle_summary
from lynx_engine.provenance.store import read_log
from lynx_engine.results import Likeness, RenderResult
from lynx_engine.settings import Settings
from tests.integration.test_campaign_rules import clips, kill, plan_again, raising, run
from tests.support.jobs import make_job, planned
from tests.support.pools import ScriptedPool

LOW_ONLY = RetryFilter(statuses=frozenset({"low_identity"}))


def gated(seed: int, *, attempts: int = 3, keep: str = "best") -> RenderJob:
    """Return a job with a gate at 0.55; the script scores it, so it needs no face."""
    return make_job(seed=seed, gate=str(IdentityGate(0.55, attempts, keep, "a script")))


def scored(job: RenderJob, *means: float | None) -> dict[int, Likeness | None]:
    """Return rendered seed -> likeness, for the tries of a job in their order."""
    return {reseed(job.seed, n): likeness(mean) for n, mean in enumerate(means, start=1)}


def likeness(mean: float | None) -> Likeness:
    return Likeness(
        evaluator="a script",
        calibration="uncalibrated",
        frames=4,
        face_share=0.0 if mean is None else 1.0,
        mean=mean,
        least=mean,
        slope_per_s=0.0,
    )


def first_plan(*jobs: RenderJob) -> RenderPlan:
    rows = [replace(planned(job), last_try=IdentityGate.parse(job.gate).attempts) for job in jobs]
    return RenderPlan("trial", tuple(rows), done=(), held=())


def records(folder: Path, seed: int) -> list[dict[str, Any]]:
    log = read_log("trial", settings=Settings(workspace=folder))
    return log.filter(log["seed"] == seed).to_dicts()


def tries(folder: Path, seed: int) -> list[tuple[int, str, int, float | None, bool]]:
    """Return attempt, status, try, score and whether it was published, oldest first."""
    return [
        (r["attempt"], r["status"], r["gate_try"], r["identity_mean"], bool(r["clip"]))
        for r in records(folder, seed)
    ]


def content(seed: int) -> str:
    """Return the digest of what the script renders from a seed."""
    return sha256(b"clip of seed %d" % seed).hexdigest()


def clip_of(folder: Path, job: RenderJob) -> str:
    return digest_file(folder / "outputs/trial/clips" / job.clip_name)


def winner(means: Sequence[float | None], *, keep: str) -> tuple[int, int, bool]:
    """Return tries made, the published one, and whether it passed: the gate's promise, plainly."""
    for n, mean in enumerate(means, start=1):
        if mean is not None and mean >= 0.55:
            return n, n, True
    if keep == "first":
        return len(means), 1, False
    order = [-9.0 if mean is None else mean for mean in means]
    return len(means), order.index(max(order)) + 1, False


CASES = {
    "passes at once": (0.6, 0.7, 0.8),
    "passes at the bar": (0.55, 0.1, 0.1),
    "passes at the second": (0.3, 0.6, 0.9),
    "passes at the third": (0.5, 0.2, 0.6),
    "gets better": (0.1, 0.2, 0.3),
    "gets worse": (0.3, 0.2, 0.1),
    "best in the middle": (0.2, 0.4, 0.3),
    "never shows a face": (None, None, None),
    "shows a face once": (None, -0.2, None),
    "no face, then passes": (None, None, 0.9),
    "equally weak": (0.3, 0.3, 0.3),
}


@pytest.mark.parametrize("keep", ["best", "first"])
@pytest.mark.parametrize("case", CASES)
def test_every_try_is_recorded_and_the_right_clip_is_published(
    tmp_path: Path, case: str, keep: str
) -> None:
    means = CASES[case]
    job = gated(5, keep=keep)
    pool = ScriptedPool(likeness=scored(job, *means))
    summary = run(tmp_path, pool, first_plan(job))
    made, published, passed = winner(means, keep=keep)
    assert pool.seeds == [reseed(5, n) for n in range(1, made + 1)]
    found = records(tmp_path, 5)
    assert [r["identity_mean"] for r in found] == list(means[:made])
    assert [r["gate_try"] for r in found] == [r["attempt"] for r in found] == [*range(1, made + 1)]
    assert [r["rendered_seed"] for r in found] == pool.seeds
    assert {(r["seed"], r["job_id"], r["gate"]) for r in found} == {(5, job.job_id, job.gate)}
    last = "rendered" if passed else "low_identity"
    assert [r["status"] for r in found] == ["low_identity"] * (made - 1) + [last]
    assert clips(tmp_path) == {job.clip_name}
    assert clip_of(tmp_path, job) == content(reseed(5, published))
    named = [r for r in found if r["clip"]]
    assert named[-1]["gate_try"] == published
    assert named[-1]["clip_digest"] == content(reseed(5, published))
    assert (summary.rendered, summary.low_identity) == (int(passed), int(not passed))
    assert summary.exit_code == (ExitCode.OK if passed else ExitCode.ROWS_FAILED)
    assert list((tmp_path / "outputs/trial/.drafts").iterdir()) == []


def test_one_attempt_marks_a_weak_clip_and_tries_no_other_seed(tmp_path: Path) -> None:
    job = gated(5, attempts=1)
    pool = ScriptedPool(likeness=scored(job, 0.2))
    summary = run(tmp_path, pool, first_plan(job))
    assert tries(tmp_path, 5) == [(1, "low_identity", 1, 0.2, True)]
    assert (pool.seeds, summary.low_identity, summary.exit_code) == ([5], 1, 1)


def test_a_weak_row_stays_weak_on_the_next_run_which_renders_nothing(tmp_path: Path) -> None:
    job = gated(5)
    run(tmp_path, ScriptedPool(likeness=scored(job, 0.1, 0.2, 0.1)), first_plan(job))
    again = plan_again(tmp_path, [job])
    assert (again.to_run, again.done) == ((), (job,))
    summary = idle_summary(replace(again, low_identity=again.done), tmp_path)
    assert (summary.done_before, summary.low_identity, summary.exit_code) == (1, 1, 1)


@pytest.mark.parametrize(
    ("more", "published"), [((0.1, 0.1, 0.1), 2), ((0.1, 0.3, 0.1), 5), ((0.1, 0.6, 0.1), 5)]
)
def test_retry_takes_further_seeds_of_the_same_sequence(
    tmp_path: Path, more: tuple[float, ...], published: int
) -> None:
    job = gated(5)
    likenesses = scored(job, 0.1, 0.2, 0.1, *more)
    run(tmp_path, ScriptedPool(likeness=likenesses), first_plan(job))
    pool = ScriptedPool(likeness=likenesses)
    summary = run(tmp_path, pool, plan_again(tmp_path, [job], LOW_ONLY))
    made = 5 if 0.6 in more else 6
    assert pool.seeds == [reseed(5, n) for n in range(4, made + 1)]
    assert [t[:1] + t[2:3] for t in tries(tmp_path, 5)] == [(n, n) for n in range(1, made + 1)]
    assert clip_of(tmp_path, job) == content(reseed(5, published))
    assert summary.exit_code == int(0.6 not in more)


def test_rows_without_a_gate_render_their_own_seed_whatever_they_score(tmp_path: Path) -> None:
    free, other = make_job(seed=5), gated(6)
    likenesses = {5: likeness(0.0), **scored(other, 0.1, 0.6)}
    pool = ScriptedPool(likeness=likenesses)
    summary = run(
        tmp_path,
        pool,
        replace(first_plan(other), to_run=(planned(free), *first_plan(other).to_run)),
    )
    assert tries(tmp_path, 5) == [(1, "rendered", 1, 0.0, True)]
    assert tries(tmp_path, 6)[-1] == (2, "rendered", 2, 0.6, True)
    assert (summary.rendered, summary.exit_code) == (2, 0)


def test_a_clip_that_nobody_scored_fails_its_row_and_is_not_kept(tmp_path: Path) -> None:
    job = gated(5)
    summary = run(tmp_path, ScriptedPool(), first_plan(job))
    assert tries(tmp_path, 5) == [(1, "failed", 1, None, False)]
    (why,) = summary.failures.values()
    assert why.startswith("score: the clip was rendered on cpu and not scored")
    assert clips(tmp_path) == set()
    assert list((tmp_path / "outputs/trial/.drafts").iterdir()) == []


def test_many_gated_rows_at_once_keep_their_tries_apart(tmp_path: Path) -> None:
    rows = [gated(seed) for seed in range(1, 9)]
    cases = list(CASES.values())
    likenesses: dict[int, Likeness | None] = {}
    for job in rows:
        likenesses |= scored(job, *cases[job.seed])
    pool = ScriptedPool(likeness=likenesses, devices=("a", "b"))
    run(tmp_path, pool, first_plan(*rows), threads=6)
    for job in rows:
        made, published, _ = winner(cases[job.seed], keep="best")
        assert [t[2] for t in tries(tmp_path, job.seed)] == [*range(1, made + 1)]
        assert clip_of(tmp_path, job) == content(reseed(job.seed, published))


def test_a_failure_amid_a_try_follows_its_rule_and_keeps_the_tries_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lynx_engine.rules.TRANSIENT_WAITS_S", (0.001, 0.001, 0.001))
    job = gated(5)
    second = reseed(5, 2)
    faults = iter([RowError(ErrorCode.ENCODER, "ffmpeg", transient=True)] * 2)

    def on_render(_: str, task: RenderTask) -> None:
        if task.job.seed == second and (fault := next(faults, None)):
            raise fault

    pool = ScriptedPool(likeness=scored(job, 0.1, 0.2, 0.6), on_render=on_render)
    run(tmp_path, pool, first_plan(job))
    assert [t[:3] for t in tries(tmp_path, 5)] == [
        (1, "low_identity", 1), (2, "failed", 2), (3, "failed", 2),
        (4, "low_identity", 2), (5, "rendered", 3),
    ]  # fmt: skip


def test_a_row_that_fails_for_good_amid_its_seeds_keeps_its_clip_and_goes_on_when_run_again(
    tmp_path: Path,
) -> None:
    job = gated(5)
    likenesses = scored(job, 0.1, 0.2, 0.1)
    broken = ScriptedPool(
        {reseed(5, 2): raising(RowError(ErrorCode.WEIGHTS, "gone"))}, likeness=likenesses
    )
    summary = run(tmp_path, broken, first_plan(job))
    assert (summary.failed, summary.low_identity) == (1, 0)
    assert clip_of(tmp_path, job) == content(5)
    pool = ScriptedPool(likeness=likenesses)
    run(tmp_path, pool, plan_again(tmp_path, [job]))
    assert pool.seeds == [reseed(5, 2), reseed(5, 3)]
    assert clip_of(tmp_path, job) == content(reseed(5, 2))


def test_deaths_of_two_tries_are_not_added_up(tmp_path: Path) -> None:
    """A row is quarantined by two deaths in a row; a try that rendered lies between these."""
    job = gated(5)
    once: set[int] = set()

    def on_render(_: str, task: RenderTask) -> None:
        if task.job.seed not in once:
            once.add(task.job.seed)
            kill(task)

    pool = ScriptedPool(likeness=scored(job, 0.1, 0.6), on_render=on_render)
    summary = run(tmp_path, pool, first_plan(job))
    assert [t[1] for t in tries(tmp_path, 5)] == ["failed", "low_identity", "failed", "rendered"]
    assert summary.exit_code == ExitCode.OK


class KilledError(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.mark.parametrize("keep", ["best", "first"])
@pytest.mark.parametrize(
    "case", ["best in the middle", "passes at the third", "never shows a face"]
)
@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_a_run_killed_at_any_try_goes_on_with_it_and_ends_as_one_left_alone(
    tmp_path: Path, killed_at: int, case: str, keep: str
) -> None:
    job = gated(5, keep=keep)
    likenesses = scored(job, *CASES[case])

    def on_render(_: str, task: RenderTask) -> None:
        if task.job.seed == reseed(5, killed_at):
            raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path, ScriptedPool(likeness=likenesses, on_render=on_render), first_plan(job))
    pool = ScriptedPool(likeness=likenesses)
    run(tmp_path, pool, plan_again(tmp_path, [job]))
    assert pool.seeds == [reseed(5, n) for n in range(killed_at, 4)]
    assert [t[2] for t in tries(tmp_path, 5)] == [1, 2, 3]
    assert clip_of(tmp_path, job) == content(reseed(5, winner(CASES[case], keep=keep)[1]))


def test_a_stop_between_two_tries_leaves_the_row_to_the_next_run(tmp_path: Path) -> None:
    job = gated(5)
    likenesses = scored(job, 0.1, 0.6)
    pool = ScriptedPool(likeness=likenesses)

    def opened(campaign: Any) -> None:
        pool.on_render = lambda *_: campaign.stop(2, drain_s=9)

    summary = run(tmp_path, pool, first_plan(job), opened=opened)
    assert (summary.interrupted, summary.rendered, summary.exit_code) == (1, 0, 130)
    assert tries(tmp_path, 5) == [(1, "low_identity", 1, 0.1, True)]
    again = plan_again(tmp_path, [job])
    assert [p.why for p in again.to_run] == ["identity 0.10 of 0.55 after 1 seed, 2 left"]


def test_whoever_watches_is_told_of_the_best_score_and_all_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[PlannedJob, RenderResult]] = []
    lock = threading.Lock()

    def finished(_: object, row: PlannedJob, result: RenderResult) -> None:
        with lock:
            told.append((row, result))

    monkeypatch.setattr("tests.support.pools.Watcher.finished", finished)
    job = gated(5)
    run(tmp_path, ScriptedPool(likeness=scored(job, 0.1, 0.42, 0.3)), first_plan(job))
    from lynx_engine.cli.progress import low_identity_in_words

    ((row, _),) = told
    said = low_identity_in_words(row)
    assert said == f"low identity {job.clip_name}: 0.42 of 0.55 after 3 seeds"
