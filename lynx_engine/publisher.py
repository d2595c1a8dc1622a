"""The only writer of a campaign: gives checked clips their names, and keeps the log.

A record is on disk before its clip has its name, and gets its own name right after it: a crash in
between leaves a clip whose record the next run finds and puts in place. It decides nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import DamagedError, ErrorCode, PausedError
from lynx_engine.jobs import PlannedJob
from lynx_engine.lock import DRAFTS_FOLDER
from lynx_engine.provenance.folding import fold_log
from lynx_engine.provenance.record import make_record
from lynx_engine.provenance.store import FOLDER as LOG_FOLDER
from lynx_engine.provenance.store import prepare_part, sync_folder, write_part
from lynx_engine.results import Failed, Interrupted, Rendered, RenderResult, Withheld
from lynx_engine.survey import CLIPS_FOLDER, POSTERS_FOLDER, poster_name
from lynx_engine.tail import last_lines, without_secrets

if TYPE_CHECKING:
    from lynx_engine.orders import ClipDraft

logger = logging.getLogger(__name__)

FOLD_EVERY = 1000
"""Parts that may lie in the log before they are folded into one file."""


class Publisher:
    """Writes under the campaign's lock; its calls may come from several threads."""

    def __init__(
        self, folder: Path, *, run_id: str, key: bytes, workspace: Path | None = None
    ) -> None:
        """Write into the campaign's `folder`; `run_id` and the workspace `key` go into records.

        Files that lie in the `workspace` are recorded relative to it.
        """
        self.drafts = (folder / DRAFTS_FOLDER).resolve()
        self._folder = folder
        self._clips = folder / CLIPS_FOLDER
        self._posters = folder / POSTERS_FOLDER
        self._log = folder / LOG_FOLDER
        self._run_id = run_id
        self._key = key
        self._workspace = workspace
        self._writing = threading.Lock()
        self._unfolded = 0
        self._mode = 0o666 & ~_umask()

    def publish(
        self, planned: PlannedJob, draft: ClipDraft, *, low_identity: bool = False
    ) -> Rendered:
        """Give a checked clip its name, with its record; a clip of that name is replaced.

        Args:
            planned: The row.
            draft: Its clip.
            low_identity: Whether the clip is under the identity gate.

        Raises:
            OSError: If the disk refuses; then there is neither a new clip nor a record.
            PausedError: If it refuses once the clip has its name.
        """
        result = Rendered(
            planned.job.clip_name,
            draft.clip,
            draft.worker,
            draft.findings,
            low_identity,
            draft.marks,
        )
        record = make_record(
            planned,
            result,
            run_id=self._run_id,
            started_at=draft.started_at,
            finished_at=datetime.now(UTC),
            key=self._key,
            workspace=self._workspace,
        )
        with self._writing:
            part = prepare_part(self._log, record)
            try:
                sync_folder(self._log)
                draft.path.chmod(self._mode)
                # Before the clip: killed in between, no picture of another try stands beside it.
                with contextlib.suppress(OSError):
                    self._remove_poster(result.clip)
                draft.path.replace(self._clips / result.clip)
            except BaseException:
                part.discard()
                raise
            try:
                sync_folder(self._clips)
                part.commit()
            except OSError as error:
                # The clip has its name; its record lies beside the log, and the next run puts it
                # in place.
                raise PausedError(f"{error.filename or self._log}: {error.strerror}") from error
            self._place_poster(result.clip, draft)
            self._count()
        told = "low identity" if low_identity else "rendered"
        logger.info("%s %s on %s", told, result.clip, result.worker.device)
        return result

    def set_aside(self, planned: PlannedJob, draft: ClipDraft) -> Rendered:
        """Record a clip under the identity gate that is no better than the published one.

        Raises:
            OSError: If the disk refuses; then there is no record.
        """
        result = Rendered(
            "", draft.clip, draft.worker, draft.findings, low_identity=True, marks=draft.marks
        )
        try:
            self.record(planned, result, started_at=draft.started_at)
        finally:
            draft.path.unlink(missing_ok=True)
            if draft.poster is not None:
                draft.poster.unlink(missing_ok=True)
        return result

    def record(self, planned: PlannedJob, result: RenderResult, *, started_at: datetime) -> None:
        """Record an attempt that left no clip.

        A withheld row keeps none: a clip of the same request that was published before, unchecked
        or by an earlier try, is removed first.

        Raises:
            OSError: If the disk refuses.
        """
        clip = planned.job.clip_name
        match result:
            case Failed():
                logger.warning("failed %s: %s: %s", clip, result.code, result.message)
            case Withheld():
                logger.warning("withheld %s: %s", clip, result.message)
            case Interrupted():
                logger.warning("interrupted %s", clip)
            case Rendered("", low_identity=True):
                logger.info("low identity %s, no better than the one before", clip)
            case Rendered():
                raise ValueError(f"{clip} has a clip; it is published")
        record = make_record(
            planned,
            result,
            run_id=self._run_id,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            key=self._key,
            workspace=self._workspace,
        )
        with self._writing:
            if isinstance(result, Withheld):
                self._unpublish(clip)
            write_part(self._log, record)
            self._count()

    def _place_poster(self, clip: str, draft: ClipDraft) -> None:
        """Put a clip's poster in its place.

        It can be done without: the clip and its record are in place already.
        """
        if draft.poster is None:
            return
        try:
            self._posters.mkdir(exist_ok=True)
            draft.poster.chmod(self._mode)
            draft.poster.replace(self._posters / poster_name(clip))
        except OSError as error:
            logger.warning("no poster of %s: %s", clip, error)

    def _remove_poster(self, clip: str) -> None:
        """Take a clip's poster away for good, if there is one."""
        try:
            (self._posters / poster_name(clip)).unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        sync_folder(self._posters)

    def _unpublish(self, clip: str) -> None:
        # The poster first: a clip that is still there is found, and removed, by the next attempt.
        self._remove_poster(clip)
        path = self._clips / clip
        if path.exists():
            path.unlink()
            sync_folder(self._clips)
            # Once more: a report, which takes no lock, may have made one of it meanwhile.
            self._remove_poster(clip)
            logger.warning("removed %s: it was made from the same request", clip)

    def keep_bug(self, planned: PlannedJob, error: Exception) -> Failed:
        """Write a bug's traceback beside the log; return what the row's failure is called."""
        path = self._folder / f"traceback-{planned.job.job_id[:12]}-a{planned.attempt}.txt"
        words = without_secrets("".join(traceback.format_exception(error)))
        told = without_secrets(f"unexpected {type(error).__name__}: {error}.")
        try:
            path.write_text(words, encoding="utf-8")
        except OSError:
            logger.exception("no room for the traceback of %s", planned.job.clip_name)
        else:
            told = f"{told} The traceback is in {path}."
        return Failed(ErrorCode.INTERNAL, told, last_lines(words))

    def fold(self) -> None:
        """Fold the parts of this run into one file; a log that cannot be folded stays as it is."""
        with self._writing:
            self._fold()

    def _count(self) -> None:
        self._unfolded += 1
        if self._unfolded >= FOLD_EVERY:
            self._fold()

    def _fold(self) -> None:
        if self._unfolded == 0:
            return
        self._unfolded = 0
        try:
            rows = fold_log(self._log)
        except (DamagedError, OSError) as error:
            logger.warning("the log was not folded: %s", error)
        else:
            logger.info("folded the log: %d rows in one file", rows)


def _umask() -> int:
    # The mask can only be read by setting it: once, before other threads make files.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
