"""Runs a plan on a pool: lock, failure rules, publishing, records.

The only writer of clips and log. Who loops over the rows is somebody else: a Prefect flow calls
`render_row` from several threads, a plain loop calls it from one.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import traceback
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lynx_engine.errors import UNWRITABLE, AbandonedError, ErrorCode, ExitCode, RowError
from lynx_engine.jobs import (
    Failed,
    Interrupted,
    PlannedJob,
    Rendered,
    RenderJob,
    RenderPlan,
    RenderResult,
    Status,
)
from lynx_engine.lock import DRAFTS_FOLDER, CampaignLock
from lynx_engine.provenance.environment import make_workspace_key
from lynx_engine.provenance.record import make_record
from lynx_engine.provenance.store import FOLDER as LOG_FOLDER
from lynx_engine.provenance.store import read_history, sync_folder, write_part
from lynx_engine.survey import CLIPS_FOLDER, FaceKey, Preflight, face_key, intact_clips
from lynx_engine.variants import get_variant
from lynx_engine.worker import ClipDraft, FaceRequest, RenderTask

if TYPE_CHECKING:
    from lynx_engine.identity.embed import SubjectFace
    from lynx_engine.pool import Pool
    from lynx_engine.settings import Settings

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Somebody who watches; called from several threads."""

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
        rendered: Rows whose clip was published by this run.
        done_before: Rows that were done already.
        failed: Rows that failed, are held, or could not be planned.
        interrupted: Rows left for the next run.
        bugs: Rows that failed by a fault of ours.
        paused: Why the campaign cannot go on now, or "".
        stopped_by: Number of the signal that ended the run early, or 0.
        failures: Clip name -> code and message.
        clips: The folder of the clips.
    """

    campaign: str
    run_id: str
    rendered: int
    done_before: int
    failed: int
    interrupted: int
    bugs: int
    paused: str
    stopped_by: int
    failures: Mapping[str, str]
    clips: Path

    @property
    def exit_code(self) -> int:
        """What the shell is told: 128 + a signal's number, then 3, then 5, then 1."""
        if self.stopped_by:
            return 128 + self.stopped_by
        if self.bugs:
            return ExitCode.BUG
        if self.paused:
            return ExitCode.PAUSED
        return ExitCode.ROWS_FAILED if self.failed else ExitCode.OK


def idle_summary(plan: RenderPlan, settings: Settings) -> CampaignSummary:
    """Return the summary of a plan with nothing to run."""
    return CampaignSummary(
        campaign=plan.campaign,
        run_id="",
        rendered=0,
        done_before=len(plan.done),
        failed=len(plan.held) + len(plan.problems),
        interrupted=0,
        bugs=0,
        paused="",
        stopped_by=0,
        failures={},
        clips=settings.campaign_dir(plan.campaign) / CLIPS_FOLDER,
    )


class Campaign:
    """A plan being run; made by `open_campaign`, which holds the lock."""

    def __init__(
        self,
        plan: RenderPlan,
        pool: Pool,
        *,
        settings: Settings,
        faces: Preflight,
        observer: Observer,
    ) -> None:
        """Take what a run needs; see `open_campaign`."""
        self.plan = plan
        self.run_id = secrets.token_hex(8)
        self._settings = settings
        self._folder = settings.campaign_dir(plan.campaign)
        self._clips = self._folder / CLIPS_FOLDER
        self._pool = pool
        self._preflight = faces
        self._observer = observer
        self._key = make_workspace_key(settings.state_dir)
        self._writing = threading.Lock()
        self._embedding = threading.Lock()
        self._faces: dict[tuple[FaceKey, str], SubjectFace] = {}
        self._outcomes: Counter[type[RenderResult]] = Counter()
        self._failures: dict[str, str] = {}
        self._bugs = 0
        self._paused = ""
        self.stopped_by = 0
        self._in_flight = 0

    @property
    def devices(self) -> int:
        """How many rows render at a time."""
        return len(self._pool.devices)

    def stop(self, signal_number: int, *, drain_s: float) -> None:
        """Begin no further row; rows in flight may finish, and with none there is no wait."""
        self.stopped_by = signal_number
        if self._in_flight:
            logger.warning("stopping; rows in flight get %.0f s", drain_s)
            self._observer.stopping(drain_s)
        else:
            self.abandon()

    def abandon(self) -> None:
        """End the rows in flight now; they are recorded as interrupted."""
        self._pool.abandon()

    def prepare_subject(self, job: RenderJob) -> SubjectFace | None:
        """Return the job's face, embedded once for all jobs that share photo and recogniser.

        Raises:
            RowError: As `Pool.embed_face`.
        """
        if job.photo is None:
            return None
        face = face_key(job)
        key = (face, get_variant(job.variant).face_encoder)
        with self._embedding:
            if key not in self._faces:
                self._faces[key] = self._pool.embed_face(
                    FaceRequest(
                        variant=job.variant,
                        precision=job.precision,
                        photo=job.photo.resolve(),
                        photo_digest=job.subject_digest,
                        landmarks=self._preflight.landmarks[face],
                    )
                )
            return self._faces[key]

    def render_row(self, planned: PlannedJob) -> RenderResult:
        """Render, publish and record one row. A failure is a result, never an exception."""
        if self.stopped_by or self._paused:
            result: RenderResult = Interrupted()
        else:
            with self._writing:
                self._in_flight += 1
            result = self._attempt(planned)
            with self._writing:
                self._in_flight -= 1
        with self._writing:
            self._outcomes[type(result)] += 1
            if isinstance(result, Failed):
                self._bugs += result.code is ErrorCode.INTERNAL
                self._failures[planned.job.clip_name] = f"{result.code}: {result.message}"
        self._observer.finished(planned, result)
        return result

    def _attempt(self, planned: PlannedJob) -> RenderResult:
        started_at = datetime.now(UTC)
        try:
            draft = self._render(planned)
            return self._publish(planned, draft)
        except Exception as error:  # noqa: BLE001  # one row's failure must not stop the others
            result = self._result_of(planned, error)
        if isinstance(result, Interrupted) and self._paused:
            return result
        return self._record(planned, started_at, result)

    def _result_of(self, planned: PlannedJob, error: Exception) -> Failed | Interrupted:
        """Return what a failure means: the table of failure rules, in one place."""
        match error:
            case AbandonedError():
                return Interrupted()
            case RowError(code=ErrorCode.DISK):
                return self._pause(str(error))
            case RowError():
                return Failed(error.code, str(error))
            case OSError() if error.errno in UNWRITABLE:
                return self._pause(f"{error.filename or self._folder}: {error.strerror}")
            case _:
                return Failed(ErrorCode.INTERNAL, self._keep_traceback(planned, error))

    def _render(self, planned: PlannedJob) -> ClipDraft:
        job = planned.job
        if job.job_id in self._preflight.problems:
            raise RowError(ErrorCode.FACE, self._preflight.problems[job.job_id].text)
        face = self.prepare_subject(job)
        name = f"{job.job_id[:12]}-a{planned.attempt}-{secrets.token_hex(8)}.mp4"
        path = (self._folder / DRAFTS_FOLDER / name).resolve()
        # Made here, so that nobody else's file or link can stand under this name.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        return self._pool.render(
            RenderTask(job, face, path),
            lambda stage, done, total: self._observer.stage(job, stage, done, total),
        )

    def _publish(self, planned: PlannedJob, draft: ClipDraft) -> RenderResult:
        """Give a checked clip its name, then write its record.

        A crash between the two leaves one clip without a row, which the next run renders over.
        """
        result = Rendered(planned.job.clip_name, draft.clip, draft.worker)
        with self._writing:
            draft.path.chmod(0o666 & ~_umask())
            draft.path.replace(self._clips / result.clip)
            sync_folder(self._clips)
        return self._record(planned, draft.started_at, result)

    def _record(
        self, planned: PlannedJob, started_at: datetime, result: RenderResult
    ) -> RenderResult:
        clip = planned.job.clip_name
        match result:
            case Rendered():
                logger.info("rendered %s on %s", clip, result.worker.device)
            case Failed():
                logger.warning("failed %s: %s: %s", clip, result.code, result.message)
            case Interrupted():
                logger.warning("interrupted %s", clip)
        record = make_record(
            planned,
            result,
            run_id=self.run_id,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            key=self._key,
        )
        try:
            with self._writing:
                write_part(self._folder / LOG_FOLDER, record)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            return self._pause(f"{self._folder / LOG_FOLDER}: {error.strerror}")
        return result

    def _keep_traceback(self, planned: PlannedJob, error: Exception) -> str:
        path = self._folder / f"traceback-{planned.job.job_id[:12]}-a{planned.attempt}.txt"
        words = "".join(traceback.format_exception(error))
        told = f"unexpected {type(error).__name__}: {error}."
        try:
            path.write_text(words, encoding="utf-8")
        except OSError:
            logger.exception("no room for the traceback of %s", planned.job.clip_name)
            return told
        return f"{told} The traceback is in {path}."

    def _pause(self, why: str) -> Interrupted:
        """Stop the campaign without a mark on any row: the disk may not take a record now."""
        self._paused = why
        logger.error("paused: %s", why)
        return Interrupted()

    def summary(self) -> CampaignSummary:
        """Return how the run ended so far."""
        ended = self._outcomes[Rendered] + self._outcomes[Failed]
        idle = idle_summary(self.plan, self._settings)
        return replace(
            idle,
            run_id=self.run_id,
            rendered=self._outcomes[Rendered],
            failed=idle.failed + self._outcomes[Failed],
            interrupted=len(self.plan.to_run) - ended,
            bugs=self._bugs,
            paused=self._paused,
            stopped_by=self.stopped_by,
            failures=dict(self._failures),
        )


def _umask() -> int:
    # The mask can only be read by setting it; the campaign is the one writer of this process.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def open_campaign(
    lock: CampaignLock,
    plan: RenderPlan,
    pool: Pool,
    *,
    settings: Settings,
    faces: Preflight,
    observer: Observer,
) -> Generator[Campaign]:
    """Give the campaign, without the rows that another run finished since it was planned.

    Args:
        lock: Held on the campaign's folder.
        plan: What to run.
        pool: Where to run it.
        settings: Folders and behaviour.
        faces: Where each subject's face is.
        observer: Who watches.

    Raises:
        DamagedError: If the log was damaged since the plan was made.
    """
    plan = _without_finished(plan, lock.folder)
    logger.info("%s: %d to render, %d done", plan.campaign, len(plan.to_run), len(plan.done))
    campaign = Campaign(plan, pool, settings=settings, faces=faces, observer=observer)
    yield campaign
    logger.info("%s: %d rendered", plan.campaign, campaign.summary().rendered)


def _without_finished(plan: RenderPlan, folder: Path) -> RenderPlan:
    history = read_history(folder / LOG_FOLDER)
    intact = intact_clips(folder / CLIPS_FOLDER, history)
    finished = {
        job_id
        for job_id, past in history.by_job.items()
        if past.status is Status.RENDERED and past.clip in intact
    }
    return replace(
        plan,
        to_run=tuple(
            replace(planned, attempt=history.attempts.get(planned.job.job_id, 0) + 1)
            for planned in plan.to_run
            if planned.job.job_id not in finished
        ),
        done=(*plan.done, *(p.job for p in plan.to_run if p.job.job_id in finished)),
    )
