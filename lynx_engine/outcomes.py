"""How rows and runs end: who is told on the way, what is counted, and what the shell hears."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from lynx_engine.errors import ErrorCode, ExitCode
from lynx_engine.jobs import PlannedJob, RenderJob, RenderPlan
from lynx_engine.results import Failed, Interrupted, Rendered, RenderResult, Withheld


class Observer(Protocol):
    """Somebody who watches; called from several threads."""

    def serving(self, address: str) -> None:
        """Prefect shows the run at `address`."""
        ...

    def stage(self, job: RenderJob, name: str, done: int, total: int) -> None:
        """A row reached step `done` of `total` in stage `name`."""
        ...

    def finished(self, planned: PlannedJob, result: RenderResult) -> None:
        """A row ended."""
        ...

    def stopping(self, drain_s: float) -> None:
        """No further row begins; rows in flight have `drain_s` seconds."""
        ...


@dataclass(frozen=True, slots=True)
class CampaignSummary:
    """How a run ended.

    Attributes:
        campaign: Campaign name.
        run_id: Id of this run in the records.
        rendered: Rows whose clip this run published, those under the identity gate not counted.
        done_before: Rows that were done already.
        failed: Rows that failed, are quarantined, or could not be planned.
        interrupted: Rows left for the next run.
        bugs: Rows that failed by a fault of ours.
        paused: Why the campaign cannot go on now, or "".
        stopped_by: Number of the signal that ended the run early, or 0.
        withheld: Rows whose clip was rendered and not kept, by this run or an earlier one.
        low_identity: Rows whose published clip is under the identity gate, likewise; those of an
            earlier run are among `done_before`, too.
        failures: Clip name -> code and message, of failed and withheld rows.
        blocked: Device -> why it got no further row.
        adopted: Clips of a killed run whose record was still to be put in place.
        clips: The folder of the clips.
        report: The page that shows the campaign; None where there is none.
    """

    campaign: str
    run_id: str
    rendered: int
    done_before: int
    failed: int
    withheld: int
    low_identity: int
    interrupted: int
    bugs: int
    paused: str
    stopped_by: int
    failures: Mapping[str, str]
    blocked: Mapping[str, str]
    adopted: tuple[str, ...]
    clips: Path
    report: Path | None = None

    @property
    def exit_code(self) -> int:
        """What the shell is told: 128 + a signal's number, then 3, then 5, then 1."""
        if self.stopped_by:
            return 128 + self.stopped_by
        # Rows that did not run, with nobody who stopped them, are a fault of ours.
        if self.bugs or (self.interrupted and not self.paused):
            return ExitCode.BUG
        if self.paused:
            return ExitCode.PAUSED
        unsuccessful = self.failed or self.withheld or self.low_identity
        return ExitCode.ROWS_FAILED if unsuccessful else ExitCode.OK


def idle_summary(plan: RenderPlan, clips: Path) -> CampaignSummary:
    """Return the summary of a plan of which nothing ran; `clips` is the folder of its clips."""
    withheld = sum(held.withheld for held in plan.held)
    return CampaignSummary(
        campaign=plan.campaign,
        run_id="",
        rendered=0,
        done_before=len(plan.done),
        failed=len(plan.held) - withheld + len(plan.problems),
        withheld=withheld,
        low_identity=len(plan.low_identity),
        interrupted=0,
        bugs=0,
        paused="",
        stopped_by=0,
        failures={},
        blocked={},
        adopted=(),
        clips=clips,
    )


_OF_THE_DEVICE = frozenset({ErrorCode.WORKER_DIED, ErrorCode.BAD_FRAMES})


@dataclass(slots=True)
class Outcomes:
    """The rows that ended in this run; safe to use from several threads."""

    bugs: int = 0
    _ended: dict[str, tuple[PlannedJob, RenderResult]] = field(
        default_factory=dict[str, "tuple[PlannedJob, RenderResult]"]
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, planned: PlannedJob, result: RenderResult) -> None:
        """Note how a row ended."""
        with self._lock:
            self._ended[planned.job.job_id] = (planned, result)
            self.bugs += isinstance(result, Failed) and result.code is ErrorCode.INTERNAL

    def take_back(self, job_ids: Iterable[str]) -> list[PlannedJob]:
        """Forget that these rows failed by their device; return those that had."""
        with self._lock:
            taken: list[PlannedJob] = []
            for job_id in job_ids:
                planned, result = self._ended.get(job_id, (None, None))
                if planned and isinstance(result, Failed) and result.code in _OF_THE_DEVICE:
                    self._ended[job_id] = (planned, Interrupted())
                    taken.append(planned)
            return taken

    def results(self) -> list[tuple[PlannedJob, RenderResult]]:
        """Return every row that ended, with its result, in the order they ended."""
        with self._lock:
            return list(self._ended.values())

    def fill(self, summary: CampaignSummary, *, planned: int) -> CampaignSummary:
        """Return `summary` with what is counted here, of `planned` rows."""
        results = self.results()
        clips = [result for _, result in results if isinstance(result, Rendered)]
        weak = sum(clip.low_identity for clip in clips)
        withheld = sum(isinstance(result, Withheld) for _, result in results)
        failures = {
            row.job.clip_name: f"{result.code}: {result.message}"
            for row, result in results
            if isinstance(result, Failed)
        }
        told = {
            row.job.clip_name: f"withheld: {result.message}"
            for row, result in results
            if isinstance(result, Withheld)
        }
        return replace(
            summary,
            rendered=len(clips) - weak,
            failed=summary.failed + len(failures),
            withheld=summary.withheld + withheld,
            low_identity=summary.low_identity + weak,
            interrupted=planned - len(clips) - len(failures) - withheld,
            bugs=self.bugs,
            failures={**failures, **told},
        )
