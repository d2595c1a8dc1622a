"""Says what the past means for a job: done, held, or to run, and why in the author's words.

The past is a few mappings taken from the log; nothing here reads it, and nothing here renders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

from lynx_engine.errors import ErrorCode
from lynx_engine.gate import likeness_in_words, shares_of
from lynx_engine.jobs import (
    PUBLISHED,
    REQUEST_FIELDS,
    HeldJob,
    PastResult,
    PlannedJob,
    Reason,
    RenderJob,
    RenderPlan,
    RowKey,
    Status,
)
from lynx_engine.variants import get_variant

QUARANTINED = "quarantined"
RETRYABLE = frozenset({Status.FAILED.value, QUARANTINED, Status.LOW_IDENTITY.value})
"""What `retry` may run again: the statuses of the log, and failed rows that killed workers."""

QUARANTINE_DEATHS = 2
"""Workers that a request may kill in a row before only a person lets it run again."""

_WITHHELD = "withheld by the safety check; it runs again when its request changes"
_UNCHECKED = "safety check asked for now: nobody looked at the clip that is there"
_SHOWN_CHARACTERS = 40
# Digests say nothing to a reader; these fields are told as changed, without their values.
_OPAQUE = frozenset({"subject_digest", "weights_fingerprint", "loras"})


@dataclass(frozen=True, slots=True)
class RetryFilter:
    """Which of the unsuccessful jobs `retry` runs again.

    Attributes:
        statuses: Some of `failed`, `quarantined` and `low_identity`.
        codes: Error codes; empty means every code.
        rows: Manifest lines ("7"), or beginnings of job ids, 6 characters at least; empty means
            every row.
        since: Only rows whose latest attempt finished then or later; None means whenever.
        damaged: File names of clips that are not what was recorded: missing, or with other bytes.
            Their rows run again whatever `statuses` says, unless the clip was withheld since.
    """

    statuses: frozenset[str] = RETRYABLE
    codes: frozenset[str] = frozenset()
    rows: frozenset[str] = frozenset()
    since: datetime | None = None
    damaged: frozenset[str] = frozenset()

    def mends(self, job: RenderJob, past: PastResult) -> bool:
        """Return whether `job` runs again because the clip it published is damaged."""
        is_damaged = past.clip in self.damaged and past.status is not Status.WITHHELD
        return is_damaged and self._names(job)

    def selects(self, job: RenderJob, past: PastResult) -> bool:
        """Return whether `job`, whose latest attempt is `past`, runs again; withheld, never."""
        if status_word(past) not in self.statuses or past.status is Status.WITHHELD:
            return False
        if self.codes and past.code not in self.codes:
            return False
        if self.since is not None and datetime.fromisoformat(past.finished_at) < self.since:
            return False
        return self._names(job)

    def _names(self, job: RenderJob) -> bool:
        line = job.where.rpartition(":")[2]
        return not self.rows or any(
            row == line or (len(row) >= 6 and job.job_id.startswith(row)) for row in self.rows
        )


@dataclass(frozen=True, slots=True)
class Past:
    """What the log and the clips folder know.

    Attributes:
        latest: Row key -> latest attempt under these names.
        by_job: Job id -> latest attempt at this request.
        attempts: Job id -> attempts so far.
        clips: File names of the clips that are there.
    """

    latest: Mapping[RowKey, PastResult] = field(default_factory=dict[RowKey, PastResult])
    by_job: Mapping[str, PastResult] = field(default_factory=dict[str, PastResult])
    attempts: Mapping[str, int] = field(default_factory=dict[str, int])
    clips: frozenset[str] = frozenset()


def status_word(past: PastResult) -> str:
    """Return the status as `retry` knows it: a row that keeps killing workers is quarantined."""
    is_fatal = past.status is Status.FAILED and past.code == ErrorCode.WORKER_DIED.value
    is_quarantined = is_fatal and past.deaths >= QUARANTINE_DEATHS
    return QUARANTINED if is_quarantined else past.status.value


def sort_by_past(
    jobs: Sequence[RenderJob], past: Past, retry: RetryFilter | None
) -> tuple[list[PlannedJob], list[RenderJob], list[HeldJob], list[RenderJob]]:
    """Return the jobs to run, the done ones and the held ones, each in the order given.

    Last come the done ones whose clip is under the identity gate, once more.

    With `retry`, only jobs it selects run; other unfinished jobs are left out.
    """
    predecessors = _Predecessors(jobs, past)
    to_run: list[PlannedJob] = []
    done: list[RenderJob] = []
    held: list[HeldJob] = []
    weak: list[RenderJob] = []
    for job in jobs:
        attempt = past.by_job.get(job.job_id)
        clips = past.clips
        verdict = _judge(job, attempt, clips, predecessors)
        if retry is not None and attempt is not None and retry.mends(job, attempt):
            verdict = (Reason.DAMAGED, f"clip damaged: {attempt.clip} is not what was recorded")
            clips = frozenset[str]()  # this one is as good as gone
        elif retry is not None and attempt is not None and retry.selects(job, attempt):
            verdict = (Reason.RETRY, f"retry: {_ending(job, attempt)}")
        elif retry is not None and isinstance(verdict, tuple):
            continue
        if verdict is None:
            done.append(job)
            if attempt is not None and attempt.status is Status.LOW_IDENTITY:
                weak.append(job)
        elif isinstance(verdict, str):
            is_withheld = attempt is not None and attempt.status is Status.WITHHELD
            held.append(HeldJob(job, verdict, withheld=is_withheld))
        else:
            reason, why = verdict
            number = past.attempts.get(job.job_id, 0) + 1
            charged = None if reason is Reason.RETRY else attempt
            deaths = 0 if charged is None else charged.deaths
            first, last, best = _seeds(job, attempt, clips)
            to_run.append(PlannedJob(job, reason, why, number, deaths, first, last, best))
    return to_run, done, held, weak


def with_seeds(planned: PlannedJob, past: PastResult | None, clips: Collection[str]) -> PlannedJob:
    """Return a job with the seeds that it may take now.

    It goes on after the last seed that was rendered, unless the clip that the seeds before left is
    gone, or was never checked: then it begins with the first.

    Args:
        planned: The job.
        past: Its latest attempt, None if there is none.
        clips: File names of the clips that are there.
    """
    first, last, best = _seeds(planned.job, past, clips)
    return replace(planned, first_try=first, last_try=last, best_score=best)


def _seeds(
    job: RenderJob, past: PastResult | None, clips: Collection[str]
) -> tuple[int, int, float | None]:
    """Return the first and the last seed that a job may take, and the score to be better than."""
    shares = shares_of(job)
    is_lost = past is None or past.best_score is None or past.clip not in clips
    if past is None or is_lost or lacks_check(job, past):
        return 1, shares.last_try(0), None
    return past.tries + 1, shares.last_try(past.tries), past.best_score


def without_finished(plan: RenderPlan, past: Past) -> RenderPlan:
    """Return a plan as it stands now: without the rows that another run has finished since.

    A row that it withheld is held. Attempts and seeds of the others are counted anew, as a record
    may have been put in place.
    """
    to_run: list[PlannedJob] = []
    finished: list[RenderJob] = []
    weak: list[RenderJob] = []
    held: list[HeldJob] = []
    for planned in plan.to_run:
        job = planned.job
        latest = past.by_job.get(job.job_id)
        made = past.attempts.get(job.job_id, 0)
        if planned.reason is Reason.DAMAGED and made < planned.attempt:
            # A damaged clip is there, with the size that was recorded: nobody has mended it yet.
            to_run.append(planned)
        elif latest is not None and _is_finished(planned, latest, past.clips):
            finished.append(job)
            weak += [job] if latest.status is Status.LOW_IDENTITY else []
        elif latest is not None and latest.status is Status.WITHHELD:
            held.append(HeldJob(job, _WITHHELD, withheld=True))
        else:
            numbered = replace(planned, attempt=made + 1)
            to_run.append(with_seeds(numbered, latest, past.clips))
    return replace(
        plan,
        to_run=tuple(to_run),
        done=(*plan.done, *finished),
        held=(*plan.held, *held),
        low_identity=(*plan.low_identity, *weak),
    )


def _is_finished(planned: PlannedJob, past: PastResult, clips: Collection[str]) -> bool:
    if past.clip not in clips or lacks_check(planned.job, past):
        return False
    if past.status is not Status.LOW_IDENTITY:
        return past.status is Status.RENDERED
    is_asked_again = planned.reason is Reason.RETRY and past.tries < planned.last_try
    return shares_of(planned.job).is_through(past.tries) and not is_asked_again


class _Predecessors:
    """Finds the earlier request that a job replaces, so that its change can be named.

    An attempt whose request is still in the plan is replaced by nothing. Where rows share their
    names, as an exact one and one with a LoRA do, an edited one replaces the latest other attempt
    of these names that differs in one field alone, if there is one. The names of table
    prompts come from their text, so an edited prompt has another name: the only row with new names
    among those of one subject, seed and variant counts as an edit of the row that vanished from
    them, the latest one if it was edited before.
    """

    def __init__(self, jobs: Sequence[RenderJob], past: Past) -> None:
        # Nothing is worked out before it is asked: not for a first run, nor where all is done.
        self._jobs = jobs
        self._latest = past.latest
        self._by_job = past.by_job

    def find(self, job: RenderJob) -> PastResult | None:
        """Return the attempt that `job` replaces, or None for a new row."""
        if not self._latest:
            return None
        key = job.row_key
        same_names = self._latest.get(key)
        if same_names is not None:
            near = self._near(job) if self._sharing[key] > 1 else None
            is_planned = same_names.job_id in self._planned_ids
            return near or (None if is_planned else same_names)
        rest = _unnamed(key)
        return self._vanished.get(rest) if self._fresh[rest] == 1 else None

    @cached_property
    def _planned_ids(self) -> frozenset[str]:
        return frozenset(job.job_id for job in self._jobs)

    @cached_property
    def _sharing(self) -> Counter[RowKey]:
        """How many jobs share their names."""
        return Counter(job.row_key for job in self._jobs)

    @cached_property
    def _fresh(self) -> Counter[tuple[str, int, str]]:
        """How many jobs have new names, by what of them is not a prompt's."""
        return Counter(_unnamed(key) for key in self._sharing.elements() if key not in self._latest)

    @cached_property
    def _vanished(self) -> Mapping[tuple[str, int, str], PastResult]:
        """The latest attempt under names that no job has now, likewise."""
        vanished = [
            result
            for key, result in self._latest.items()
            if key not in self._sharing and result.job_id not in self._planned_ids
        ]
        vanished.sort(key=lambda result: result.finished_at)
        return {_unnamed(result.row_key): result for result in vanished}

    @cached_property
    def _unplanned(self) -> Mapping[RowKey, Sequence[PastResult]]:
        """Attempts whose requests are in the plan no more, by their names."""
        found: dict[RowKey, list[PastResult]] = {}
        for attempt in self._by_job.values():
            if attempt.job_id not in self._planned_ids:
                found.setdefault(attempt.row_key, []).append(attempt)
        return found

    def _near(self, job: RenderJob) -> PastResult | None:
        candidates = [
            attempt
            for attempt in self._unplanned.get(job.row_key, ())
            if len(describe_changes(attempt.request, job.request())) == 1
        ]
        return max(candidates, key=lambda attempt: attempt.finished_at, default=None)


def _unnamed(key: RowKey) -> tuple[str, int, str]:
    return (key.subject, key.seed, key.variant)


def _judge(
    job: RenderJob,
    attempt: PastResult | None,
    clips: frozenset[str],
    predecessors: _Predecessors,
) -> tuple[Reason, str] | str | None:
    """Return why the job runs, or why it is held (a text), or None when it is done."""
    if attempt is None:
        return _new_or_changed(job, predecessors.find(job))
    if attempt.status in PUBLISHED:
        return _judge_published(job, attempt, clips)
    if attempt.status is Status.WITHHELD:
        return _WITHHELD
    if status_word(attempt) == QUARANTINED:
        return f"quarantined: {_message(attempt)}; `lynx-engine retry` runs it again"
    interrupted = attempt.status is Status.INTERRUPTED
    return (Reason.INTERRUPTED if interrupted else Reason.FAILED, _ending(job, attempt))


def _judge_published(
    job: RenderJob, attempt: PastResult, clips: frozenset[str]
) -> tuple[Reason, str] | None:
    """Return why a job with a published clip runs, None if nothing is left to do."""
    if attempt.clip not in clips:
        return (Reason.MISSING_CLIP, f"clip missing: {attempt.clip} is no longer in outputs")
    if lacks_check(job, attempt):
        return (Reason.UNCHECKED, _UNCHECKED)
    return _more_seeds(job, attempt)


def _more_seeds(job: RenderJob, attempt: PastResult) -> tuple[Reason, str] | None:
    """Return why a job whose clip is there runs: its gate was stopped amid its seeds."""
    shares = shares_of(job)
    if attempt.status is Status.RENDERED or shares.is_through(attempt.tries):
        return None
    left = shares.last_try(attempt.tries) - attempt.tries
    return (Reason.LOW_IDENTITY, f"{_tries_in_words(job, attempt)}, {left} left")


def lacks_check(job: RenderJob, attempt: PastResult) -> bool:
    """Whether a clip that is there must pass the safety check now, and nobody looked at it.

    `safety` is no part of a job's id: who took responsibility for a clip and asks for the check
    afterwards has the same request, and no verdict.
    """
    return get_variant(job.variant).is_checked(job.safety) and not attempt.classifiers


def _new_or_changed(job: RenderJob, before: PastResult | None) -> tuple[Reason, str]:
    if before is None:
        return (Reason.NEW, "new")
    changes = describe_changes(before.request, job.request())
    return (Reason.CHANGED, f"changed: {', '.join(changes)}")


def describe_changes(
    before: Mapping[str, str | int | float], after: Mapping[str, str | int | float]
) -> list[str]:
    """Return every difference of two requests in the author's words, such as `frames 49 -> 81`."""
    changes: list[str] = []
    for field_name, word in REQUEST_FIELDS.items():
        old, new = before.get(field_name), after.get(field_name)
        if old == new:
            continue
        if field_name in _OPAQUE or old is None:
            changes.append(f"{word} changed")
        else:
            changes.append(f"{word} {_short(old, new)} -> {_short(new, old)}")
    return changes or ["the form of the request"]


def _short(value: str | float | None, other: str | float | None) -> str:
    """Return `value` in one short line, a long text from a little before it leaves `other`."""
    if not isinstance(value, str):
        return str(value)
    if len(value) > _SHOWN_CHARACTERS:
        pairs = enumerate(zip(value, str(other), strict=False))
        parting = next((at for at, (one, two) in pairs if one != two), 0)
        start = max(parting - _SHOWN_CHARACTERS // 2, 0)
        end = start + _SHOWN_CHARACTERS - 1
        value = f"{'…' * (start > 0)}{value[start:end]}{'…' * (end < len(value))}"
    return value if value.isprintable() and value and " " not in value else repr(value)


def _ending(job: RenderJob, attempt: PastResult) -> str:
    if attempt.status is Status.FAILED:
        return f"failed before ({_message(attempt)})"
    if attempt.status is Status.LOW_IDENTITY:
        return f"low {_tries_in_words(job, attempt)}"
    return attempt.status.value


def _tries_in_words(job: RenderJob, attempt: PastResult) -> str:
    return f"identity {likeness_in_words(job.gate, attempt.best_score, attempt.tries)}"


def _message(attempt: PastResult) -> str:
    first_line = attempt.message.strip().partition("\n")[0]
    return f"{attempt.code}: {_short_text(first_line)}" if first_line else attempt.code


def _short_text(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}…"
