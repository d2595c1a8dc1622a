"""Signs the clips that are published, right before they are, where the settings ask for it.

What cannot be signed is not published: the campaign pauses, no row is charged, and the next run
goes on. Without the setting it does nothing, and loads nothing.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from lynx_engine.digest import digest_file
from lynx_engine.errors import PausedError, Problem, RefusedError, RowError
from lynx_engine.media.video import decode_clip
from lynx_engine.provenance.credentials import Claim, Credentials, SigningError
from lynx_engine.provenance.files import remove_temp

if TYPE_CHECKING:
    from pathlib import Path

    from lynx_engine.jobs import PlannedJob
    from lynx_engine.orders import ClipDraft
    from lynx_engine.results import ClipFacts
    from lynx_engine.settings import Settings

logger = logging.getLogger(__name__)

LABEL = "c2pa"
"""What a signed clip's `labels_applied` has more than an unsigned one's."""


def open_credentials(settings: Settings) -> Credentials | None:
    """Return what signs clips, tried on a picture in memory; None if they are not to be signed.

    Raises:
        RefusedError: If clips could not be signed now.
    """
    credentials = Credentials.load(settings)
    if credentials is None:
        return None
    for warning in credentials.warnings():
        logger.warning("%s", warning)
    try:
        credentials.probe()
    except SigningError as error:
        problem = Problem(str(credentials.chain.folder), str(error))
        raise RefusedError([problem], outcome="no clip can be signed") from None
    return credentials


class ClipSigner:
    """Signs the clips of one run; its calls may come from several threads."""

    def __init__(self, credentials: Credentials | None, *, run_id: str) -> None:
        """Sign with `credentials`, None for not at all; `run_id` goes into each claim."""
        self._credentials = credentials
        self._run_id = run_id

    def signed(self, planned: PlannedJob, draft: ClipDraft) -> ClipDraft:
        """Return the draft of a clip that is about to be published, signed.

        A signed copy is made beside it, checked, and takes its place; whatever goes wrong before,
        the draft is as it was.

        Raises:
            PausedError: If the clip cannot be signed; the disk is one reason.
        """
        if self._credentials is None:
            return draft
        job, worker = planned.job, draft.worker
        claim = Claim(
            job_id=job.job_id,
            run_id=self._run_id,
            attempt=planned.attempt,
            variant=job.variant,
            weights_fingerprint=job.weights_fingerprint,
            weights=worker.weights,
            loras=tuple(lora.weights_digest for lora in job.loras),
        )
        copy = draft.path.with_name(f"{draft.path.stem}-signed.mp4")
        try:
            signature = self._credentials.sign(draft.path, copy, claim, digest=draft.clip.digest)
            try:
                clip = _same_frames(copy, draft)
                copy.replace(draft.path)
            except BaseException:
                remove_temp(copy)
                raise
        except SigningError as error:
            raise PausedError(_letter(job.clip_name, str(error))) from None
        except OSError as error:
            told = f"{error.filename or draft.path.parent}: {error.strerror}"
            raise PausedError(_letter(job.clip_name, told)) from None
        marks = replace(
            draft.marks,
            labels=(*draft.marks.labels, LABEL),
            credential=signature.credential,
            signer=signature.signer,
        )
        return replace(draft, clip=clip, marks=marks)


def _same_frames(copy: Path, draft: ClipDraft) -> ClipFacts:
    """Return the facts of a signed copy that decodes to the draft's own frames.

    Raises:
        SigningError: If it does not.
        OSError: If it cannot be read.
    """
    try:
        frames_digest = decode_clip(copy).frames_digest
    except RowError as error:
        raise SigningError(f"its signed copy cannot be shown: {error}") from None
    if frames_digest != draft.clip.frames_digest:
        raise SigningError("its signed copy does not show the same frames")
    return replace(draft.clip, bytes=copy.stat().st_size, digest=digest_file(copy))


def _letter(clip: str, why: str) -> str:
    why = why.rstrip(".")
    advice = "`lynx-engine credentials check` tries it again"
    return f"{clip} could not be signed, and is not published unsigned: {why}. {advice}"
