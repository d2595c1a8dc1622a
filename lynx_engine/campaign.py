"""Runs a plan on a pool: whose turn it is, what a failure means, what is published and recorded.

Who loops over the turns is somebody else: a Prefect flow calls `render_row` from several threads, a
plain loop calls it from one. The table of failure rules is `rules.py`, the order of rows
`dispatch.py`, the files `publisher.py`.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from lynx_engine.consent import utc_today
from lynx_engine.dispatch import Dispatcher, Model, NoDeviceError, Turn, model_of
from lynx_engine.errors import (
    PASSING,
    UNWRITABLE,
    AbandonedError,
    DeviceLostError,
    ErrorCode,
    PausedError,
    RowError,
    pausing,
)
from lynx_engine.faces import SubjectFaces
from lynx_engine.gate import at_try, gate_of, score_of, unscored_letter
from lynx_engine.history import Past, without_finished
from lynx_engine.identity.vault import open_vault
from lynx_engine.jobs import PlannedJob, RenderPlan
from lynx_engine.likeness import SubjectLikeness
from lynx_engine.lock import CampaignLock
from lynx_engine.orders import RenderTask
from lynx_engine.outcomes import CampaignSummary, Observer, Outcomes, idle_summary
from lynx_engine.pool.protocol import FINISHING
from lynx_engine.preflight import Preflight
from lynx_engine.provenance.environment import make_workspace_key
from lynx_engine.provenance.labels import tags_of
from lynx_engine.provenance.past import read_history
from lynx_engine.provenance.store import FOLDER as LOG_FOLDER
from lynx_engine.publisher import Publisher
from lynx_engine.results import Failed, Interrupted, RenderResult, Withheld, WithheldError
from lynx_engine.rights import Rights
from lynx_engine.rules import Again, DeviceHealth, Tries, is_transient
from lynx_engine.signing import ClipSigner, open_credentials
from lynx_engine.survey import CLIPS_FOLDER, intact_clips

if TYPE_CHECKING:
    from lynx_engine.identity.vault import Vault
    from lynx_engine.orders import ClipDraft
    from lynx_engine.pool.protocol import Pool
    from lynx_engine.provenance.credentials import Credentials
    from lynx_engine.settings import Settings

logger = logging.getLogger(__name__)


class Campaign:
    """A plan being run; made by `open_campaign`, under the lock."""

    def __init__(
        self,
        plan: RenderPlan,
        pool: Pool,
        *,
        lock: CampaignLock,
        settings: Settings,
        faces: Preflight,
        vault: Vault,
        credentials: Credentials | None,
        observer: Observer,
        today: Callable[[], date],
    ) -> None:
        """Take what a run needs; see `open_campaign`."""
        self.plan = plan
        self.settings = settings
        self.run_id = secrets.token_hex(8)
        self.stopped_by = 0
        self.outcomes = Outcomes()
        self._lock = lock
        self._pool = pool
        self._preflight = faces
        self._faces = SubjectFaces(faces, pool, vault=vault, settings=settings)
        self._likeness = SubjectLikeness(faces, settings.evaluator, vault=vault)
        self._observer = observer
        self._dispatcher = Dispatcher(plan.to_run, pool.devices)
        key = make_workspace_key(settings.state_dir)
        self._producer = settings.producer
        self._rights = Rights(settings, key=key, today=today)
        self._publisher = Publisher(
            lock.folder, run_id=self.run_id, key=key, workspace=settings.workspace
        )
        self._signer = ClipSigner(credentials, run_id=self.run_id)
        self._health = DeviceHealth()
        self._blocked: dict[str, str] = {}
        self._broken: dict[Model, str] = {}
        self._tries: dict[str, Tries] = {}
        self._paused = ""
        self._in_flight = 0
        self._guard = threading.Lock()

    @property
    def devices(self) -> int:
        """How many rows render at a time."""
        return len(self._pool.devices)

    def turns(self, *, threads: int = 1) -> Generator[Turn]:
        """Give rows to render as devices get room for them; ends when none is left.

        Args:
            threads: How many rows the caller can render at a time; no more are given before one
                of them ended.
        """
        while (turn := self._dispatcher.next_turn(threads)) is not None:
            yield turn

    def stop(self, signal_number: int, *, drain_s: float) -> None:
        """Begin no further row; rows in flight may finish, and with none there is no wait."""
        self.stopped_by = signal_number
        self._dispatcher.stop()
        if self._in_flight:
            logger.warning("stopping; rows in flight get %.0f s", drain_s)
            self._observer.stopping(drain_s)
        else:
            self.abandon()

    def abandon(self) -> None:
        """End the rows in flight now; they are recorded as interrupted."""
        self._dispatcher.stop()
        self._pool.abandon()

    def render_row(self, turn: Turn) -> RenderResult:
        """Render, publish and record one row. A failure is a result, never an exception."""
        planned = turn.planned
        with self._guard:
            tries = self._tries[planned.job.job_id] = Tries(deaths=planned.deaths)
        try:
            result = self._attempts(turn, tries)
        except Exception as error:  # noqa: BLE001  # a row that cannot even be recorded
            result = self._publisher.keep_bug(planned, error)
        finally:
            self._dispatcher.done(turn)
        self.outcomes.add(turn.planned, result)
        self._observer.finished(turn.planned, result)
        return result

    def _attempts(self, turn: Turn, tries: Tries) -> RenderResult:
        """Let a row have its turns until it is rendered or has failed for good."""
        while True:
            try:
                self._dispatcher.start(turn)
            except NoDeviceError:
                return self._leave(turn.planned, tries)
            with self._guard:
                self._in_flight += 1
            try:
                ended = self._attempt(turn, tries)
            finally:
                with self._guard:
                    self._in_flight -= 1
            if not isinstance(ended, Again):
                return ended
            if self._dispatcher.wait(ended.wait_s):
                return self._leave(turn.planned, tries)
            try:
                self._dispatcher.again(turn, elsewhere=ended.elsewhere, last=ended.last)
            except NoDeviceError:
                return self._leave(turn.planned, tries)

    def _leave(self, planned: PlannedJob, tries: Tries) -> Interrupted:
        """Leave a row to the next run."""
        self._settle(planned, tries)
        return Interrupted()

    def _settle(self, planned: PlannedJob, tries: Tries) -> None:
        """Record that the latest failure was the device's: the next run goes by the log."""
        if tries.pardoned:
            tries.pardoned = False
            self._record(planned, Interrupted(), datetime.now(UTC))

    def _attempt(self, turn: Turn, tries: Tries) -> RenderResult | Again:
        """Render once; the device is free again before the clip is published."""
        started_at = datetime.now(UTC)
        on_device = True
        try:
            draft = self._render(turn)
            on_device = False
            with self._guard:
                bad = self._health.rendered(turn.device, turn.planned.job.job_id)
            self._dispatcher.end(turn)
            if bad:
                self._block(bad[0], "rows that failed on it come out well on others", bad[1])
            return self._publish(turn, draft, tries)
        except DeviceLostError as error:
            self._block(turn.device, str(error), ())
            return Again(elsewhere=True)
        except Exception as error:  # noqa: BLE001  # one row's failure must not stop the others
            return self._after(turn, error, tries, started_at=started_at, on_device=on_device)
        finally:
            # Not before a failure was judged: a device that is bad gets no further row.
            self._dispatcher.end(turn)

    def _publish(self, turn: Turn, draft: ClipDraft, tries: Tries) -> RenderResult | Again:
        """Publish or set aside a clip, as the identity gate says; the row may try another seed."""
        planned, likeness = turn.planned, draft.findings.likeness
        gate = gate_of(planned.job)
        if gate is None or likeness is None:
            return self._publisher.publish(planned, self._signer.signed(planned, draft))
        verdict = gate.judge(
            likeness,
            best=planned.best_score,
            try_number=planned.first_try,
            last_try=planned.last_try,
        )
        if not verdict.is_kept:
            result = self._publisher.set_aside(planned, draft)
        else:
            weak = not verdict.passes
            draft = self._signer.signed(planned, draft)
            result = self._publisher.publish(planned, draft, low_identity=weak)
            planned = replace(planned, best_score=score_of(likeness.mean))
        turn.planned = planned
        if not verdict.goes_on:
            return result
        tries.start_over()
        turn.planned = replace(
            planned, attempt=planned.attempt + 1, first_try=planned.first_try + 1
        )
        return Again()

    def _render(self, turn: Turn) -> ClipDraft:
        turn.planned = self._rights.checked(turn.planned)
        job = turn.planned.job
        if job.job_id in self._preflight.problems:
            raise RowError(ErrorCode.FACE, self._preflight.problems[job.job_id].text)
        if model_of(job) in self._broken:
            raise RowError(ErrorCode.WEIGHTS, self._broken[model_of(job)])
        face = self._faces.face_of(job, turn.device)
        likeness = self._likeness.likeness_of(job)
        name = f"{job.job_id[:12]}-a{turn.planned.attempt}-{secrets.token_hex(8)}.mp4"
        path = self._publisher.drafts / name
        # Made here, so that nobody else's file or link can stand under this name.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))

        def tell(stage: str, done: int, total: int) -> None:
            if stage == FINISHING:
                self._dispatcher.finishing(turn)
            self._observer.stage(job, stage, done, total)

        try:
            asked = at_try(job, turn.planned.first_try)
            task = RenderTask(asked, face, path, likeness, tags_of(job, self._producer))
            draft = self._pool.render(turn.device, task, tell)
            if job.gate and draft.findings.likeness is None:
                raise RowError(ErrorCode.SCORE, unscored_letter(turn.device))
            return draft
        except BaseException:
            for left in (path, path.with_suffix(".jpg")):  # a process that died could not
                left.unlink(missing_ok=True)
            raise

    def _after(
        self, turn: Turn, error: Exception, tries: Tries, *, started_at: datetime, on_device: bool
    ) -> RenderResult | Again:
        """Record a failed attempt, and say whether the row runs again."""
        result = self._result_of(turn.planned, error)
        if isinstance(result, Interrupted):
            if not self._paused:
                self._record(turn.planned, result, started_at)
            return result
        if isinstance(result, Withheld):
            return result if self._record(turn.planned, result, started_at) else Interrupted()
        again = tries.after(result.code, transient=is_transient(error))
        self._settle(turn.planned, tries)
        if not self._record(turn.planned, result, started_at):
            return Interrupted()
        if result.code is ErrorCode.WEIGHTS:
            self._broken[model_of(turn.planned.job)] = result.message
        turn.planned = replace(turn.planned, attempt=turn.planned.attempt + 1)
        if on_device:
            job_id = turn.planned.job.job_id
            with self._guard:
                bad = self._health.failed(turn.device, job_id, result.code)
            if bad:
                self._block(turn.device, f"{len(bad[1])} rows in a row killed its process", bad[1])
                self._settle(turn.planned, tries)
                return Again(elsewhere=True)
        return again or result

    def _result_of(  # noqa: PLR0911  # a table, one line a kind of failure
        self, planned: PlannedJob, error: Exception
    ) -> Failed | Withheld | Interrupted:
        """Return what a failed attempt is called in the record."""
        match error:
            case AbandonedError():
                return Interrupted()
            case WithheldError():
                return Withheld(str(error), error.verdict)
            case RowError(code=ErrorCode.DISK) | PausedError():
                return self._pause(str(error))
            case RowError():
                return Failed(error.code, str(error), error.stderr)
            case OSError() if error.errno in UNWRITABLE:
                return self._pause(f"{error.filename or self._lock.folder}: {error.strerror}")
            case OSError() if error.errno in PASSING:
                return Failed(ErrorCode.IO, f"{error.filename or 'a file'}: {error.strerror}.")
            case _:
                return self._publisher.keep_bug(planned, error)

    def _record(self, planned: PlannedJob, result: RenderResult, started_at: datetime) -> bool:
        """Record an attempt; return False if the disk takes no record, which pauses the run."""
        try:
            self._publisher.record(planned, result, started_at=started_at)
        except OSError as error:
            self._pause(f"{self._lock.folder / LOG_FOLDER}: {error.strerror}")
            return False
        return True

    def _block(self, device: str, why: str, blamed: tuple[str, ...]) -> None:
        """Give a device no further row; the rows that failed on it are not charged."""
        logger.error("%s gets no further row: %s", device, why)
        # Before it is blocked: with the last device, rows that wait for it leave at once.
        for job_id in blamed:
            with self._guard:
                self._tries[job_id].pardon()
        self._blocked[device] = why
        self._dispatcher.block(device)
        for planned in self.outcomes.take_back(blamed):
            # The latest word on a row decides what becomes of it: it is not the row's failure.
            self._record(planned, Interrupted(), datetime.now(UTC))
            self._dispatcher.put_back(replace(planned, deaths=0))
        if not self._dispatcher.devices_left:
            self._pause(f"no device is left: {why} ({device})")

    def _pause(self, why: str) -> Interrupted:
        """Stop the campaign without a mark on any row: the disk may not take a record now."""
        self._paused = self._paused or why
        logger.error("paused: %s", why)
        self._dispatcher.stop()
        return Interrupted()

    def close(self) -> None:
        """Leave the log in one file."""
        self._publisher.fold()

    def summary(self) -> CampaignSummary:
        """Return how the run ended so far."""
        idle = idle_summary(self.plan, self._lock.folder / CLIPS_FOLDER)
        counted = self.outcomes.fill(idle, planned=len(self.plan.to_run))
        return replace(
            counted,
            run_id=self.run_id,
            paused=self._paused,
            stopped_by=self.stopped_by,
            blocked=dict(self._blocked),
            adopted=self._lock.recovered.adopted,
        )


@contextmanager
def open_campaign(
    lock: CampaignLock,
    plan: RenderPlan,
    pool: Pool,
    *,
    settings: Settings,
    faces: Preflight,
    observer: Observer,
    today: Callable[[], date] = utc_today,
) -> Generator[Campaign]:
    """Give the campaign, without the rows that another run finished since it was planned.

    Args:
        lock: Held on the campaign's folder.
        plan: What to run.
        pool: Where to run it.
        settings: Folders and behaviour.
        faces: Where each subject's face is.
        observer: Who watches.
        today: Tells the day, UTC, by which consent is judged.

    Raises:
        DamagedError: If the log was damaged since the plan was made.
        PausedError: If the disk cannot be read or written.
        RefusedError: If something that is no folder stands where faces are kept, or clips are to be
            signed and cannot be.
    """
    credentials = open_credentials(settings)
    with pausing(lock.folder):
        known = read_history(lock.folder / LOG_FOLDER)
        clips = intact_clips(lock.folder / CLIPS_FOLDER, known)
        plan = without_finished(plan, Past(known.latest, known.by_job, known.attempts, clips))
        vault = open_vault(settings)
        campaign = Campaign(
            plan,
            pool,
            lock=lock,
            settings=settings,
            faces=faces,
            vault=vault,
            credentials=credentials,
            observer=observer,
            today=today,
        )
        expired = vault.remove_expired()
    if expired:
        logger.info("forgot %d things kept of faces: their time is over", len(expired))
    logger.info("%s: %d to render, %d done", plan.campaign, len(plan.to_run), len(plan.done))
    try:
        yield campaign
    finally:
        campaign.close()
    logger.info("%s: %d rendered", plan.campaign, campaign.summary().rendered)
