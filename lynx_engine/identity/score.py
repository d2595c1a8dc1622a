"""How much the faces of a clip resemble its subject, as an evaluator sees them.

Frames in, numbers out: it opens no files, and the subject was embedded before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

import numpy as np
import numpy.typing as npt

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.identity.detect import find_faces
from lynx_engine.identity.evaluators import Embedding, Evaluator
from lynx_engine.media.look import spread
from lynx_engine.results import Likeness

SCORED_FRAMES = 16
"""Frames looked at, or all of a shorter clip: a face drifts over seconds, and each frame takes
detector and evaluator 0.15 s."""


@dataclass(frozen=True, slots=True, eq=False)
class LikenessTarget:
    """Whom a clip shall resemble, and who says how much.

    Attributes:
        setting: What `choose_evaluator` is told, wherever the clip is scored; never `auto`.
        evaluator: Its name here: another version would measure on another scale.
        embedding: The evaluator's embedding of the subject, float32 [D]; the mean of several
            photos. Kept out of the value's text, which may reach a log.
    """

    setting: str
    evaluator: str
    embedding: Embedding = field(repr=False)


def score_likeness(
    frames: npt.NDArray[np.uint8], target: LikenessTarget, evaluator: Evaluator, fps: float
) -> Likeness:
    """Score a clip.

    Up to `SCORED_FRAMES` frames are looked at, evenly spread, the first and the last with them.
    Where several faces are in a frame, the one most like the subject counts.

    Args:
        frames: RGB uint8 [F, H, W, 3].
        target: The subject.
        evaluator: Who made the target's embedding.
        fps: Frames a second.

    Raises:
        RowError: SCORE, if the evaluator says something that is no number; or as `embed` does.
    """
    chosen = spread(len(frames), SCORED_FRAMES)
    times_s: list[float] = []
    scores: list[float] = []
    over_time: list[tuple[float, float | None]] = []
    for index in chosen:
        frame = frames[index]
        found = [evaluator.embed(frame, face) for face in find_faces(frame)]
        alike = [evaluator.score(target.embedding, embedding) for embedding in found]
        if not all(map(isfinite, alike)):
            text = f"{evaluator.name} gave a score that is no number at frame {index}."
            raise RowError(ErrorCode.SCORE, text)
        over_time.append((round(index / fps, 4), max(alike, default=None)))
        if alike:
            times_s.append(index / fps)
            scores.append(max(alike))
    return Likeness(
        evaluator=evaluator.name,
        calibration=evaluator.calibration,
        frames=len(chosen),
        face_share=len(scores) / len(chosen),
        mean=float(np.mean(scores)) if scores else None,
        least=min(scores, default=None),
        slope_per_s=_slope(times_s, scores),
        scores=tuple(over_time),
    )


def _slope(times_s: list[float], scores: list[float]) -> float | None:
    """Return the slope of the line nearest to the scores: sum(t' s') / sum(t' t'), centred."""
    if len(scores) < 2:
        return None
    t = np.array(times_s) - np.mean(times_s)
    return float(t @ (np.array(scores) - np.mean(scores)) / (t @ t))
