"""Looks at a finished draft, on the CPU beside the render: motion, sharpness, likeness.

Nothing found here loses a clip. What could not be looked at is not in the findings, and said in
the log; only an identity gate that waits for a score makes it a failure.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lynx_engine.errors import ErrorCode, LynxError, ProblemsError, RowError
from lynx_engine.identity.evaluators import choose_evaluator
from lynx_engine.identity.score import LikenessTarget, score_likeness
from lynx_engine.media.look import look_at
from lynx_engine.results import Findings, Likeness, Look

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lynx_engine.jobs import RenderJob

logger = logging.getLogger(__name__)


def examine_frames(
    frames: npt.NDArray[np.uint8], job: RenderJob, target: LikenessTarget | None
) -> Findings:
    """Look at the frames of a draft as they will be seen.

    Args:
        frames: RGB uint8 [F, H, W, 3], decoded from the encoded clip.
        job: What it should show.
        target: Whom it should resemble; None where nobody says how much.

    Raises:
        RowError: SCORE, if the job has an identity gate and the clip could not be scored.
    """
    import cv2

    # The device's render goes on meanwhile and needs the other cores. OpenCV renders nothing.
    cv2.setNumThreads(1)
    return Findings(likeness=_likeness(frames, job, target), look=_look(frames, job))


def _look(frames: npt.NDArray[np.uint8], job: RenderJob) -> Look | None:
    try:
        return look_at(frames, job.fps)
    except Exception as error:  # noqa: BLE001  # whatever OpenCV says, the clip is good
        logger.warning("nobody looked at %s: %s", job.clip_name, _in_words(error))
        return None


def _likeness(
    frames: npt.NDArray[np.uint8], job: RenderJob, target: LikenessTarget | None
) -> Likeness | None:
    if target is None:
        return None
    try:
        evaluator = choose_evaluator(target.setting)
        if evaluator is None or evaluator.name != target.evaluator:
            text = f"the subject was embedded by {target.evaluator}, which is not installed here"
            raise RowError(
                ErrorCode.SCORE,
                f"{text}; found {evaluator.name if evaluator else 'none'}. Install the same one "
                "wherever rows render.",
            )
        return score_likeness(frames, target, evaluator, job.fps)
    except Exception as error:
        if job.gate:
            raise _unscored(error) from error
        logger.warning("nobody scored %s: %s", job.clip_name, _in_words(error))
        return None


def _unscored(error: Exception) -> RowError:
    return RowError(
        ErrorCode.SCORE,
        f"the identity gate waits for a score, and there is none: {_in_words(error)} "
        "The clip is gone; mend this and run `lynx-engine retry`.",
    )


def _in_words(error: Exception) -> str:
    if isinstance(error, ProblemsError):
        return " ".join(problem.text for problem in error.problems)
    if isinstance(error, LynxError):
        return str(error)
    return f"{type(error).__name__}: {error}."
