"""The safety check of one clip: every frame before every classifier, or no clip.

It fails closed: whatever hinders a classifier from giving each frame a score in 0 to 1 withholds
the clip, as a score at its threshold does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from lynx_engine.results import SafetyVerdict, WithheldError
from lynx_engine.safety.classifiers import (
    Asked,
    Classifier,
    ClassifierLoader,
    ClassifierPlace,
    parse_asked,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FRAMES_AT_A_TIME = 8
"""Bounds what a classifier holds: 8 frames of 832 x 480 are 10 MB, as float32 40 MB."""

_NOT_KEPT = "The clip was not kept"


@dataclass(frozen=True, slots=True)
class _Loaded:
    classifier: Classifier
    threshold: float

    def __str__(self) -> str:
        licence = self.classifier.licence
        return f"{self.classifier.name} ({licence}) from {self.threshold:g}"


@dataclass(frozen=True, slots=True)
class _Highest:
    """The score nearest to, or farthest over, its threshold."""

    by: _Loaded
    score: float
    frame: int

    @property
    def part(self) -> float:
        return self.score / self.by.threshold


class SafetyCheck:
    """The classifiers of one process, each loaded once, when the first clip needs it.

    Its calls may come from several threads; one clip at a time is looked at, as classifiers need
    not bear more.
    """

    def __init__(self, asked: Sequence[str], place: ClassifierPlace) -> None:
        """Check with the classifiers of these names, as `installed_classifiers` gives them."""
        self._asked = tuple(asked)
        self._place = place
        self._loaded: dict[str, _Loaded] = {}
        self._lock = threading.Lock()

    def judge(
        self, frames: npt.NDArray[np.uint8], on_progress: Callable[[int, int], None]
    ) -> SafetyVerdict:
        """Accept a clip whose frames no classifier flags.

        Args:
            frames: RGB, uint8, [F, H, W, 3], as decoding the clip gives them.
            on_progress: Told of batches done and in all; may raise.

        Returns:
            A verdict that is not flagged.

        Raises:
            WithheldError: If a frame is flagged, or any frame has no sound score.
        """
        if not self._asked:
            raise WithheldError(f"no safety classifier is in this process. {_NOT_KEPT}.")
        if not len(frames):
            raise WithheldError(f"the clip has no frame to look at. {_NOT_KEPT}.")
        with self._lock:
            return self._judged(frames, on_progress)

    def _judged(
        self, frames: npt.NDArray[np.uint8], on_progress: Callable[[int, int], None]
    ) -> SafetyVerdict:
        starts = range(0, len(frames), FRAMES_AT_A_TIME)
        total = len(self._asked) * len(starts)
        done = 0
        found: list[_Highest] = []
        for name in self._asked:
            on_progress(done, total)
            loaded = self._load(name)
            for start in starts:
                scores = _scores(loaded, frames[start : start + FRAMES_AT_A_TIME], first=start)
                frame = int(scores.argmax())
                found.append(_Highest(loaded, float(scores[frame]), start + frame))
                done += 1
                on_progress(done, total)
        highest = max(found, key=lambda one: one.part)
        verdict = SafetyVerdict(
            classifiers=", ".join(str(self._loaded[name]) for name in self._asked),
            score=highest.part,
            frame=highest.frame,
        )
        if verdict.flagged:
            raise WithheldError(
                f"{highest.by.classifier.name} saw {highest.score:.3f} in frame {highest.frame} "
                f"(of {len(frames)}, from 0), and flags from {highest.by.threshold:g}. "
                f"{_NOT_KEPT}.",
                verdict,
            )
        return verdict

    def _load(self, name: str) -> _Loaded:
        if name not in self._loaded:
            try:
                self._loaded[name] = _load(parse_asked(name), self._place)
            except Exception as error:
                text = f"{name} cannot be loaded ({_words(error)}). {_NOT_KEPT}."
                raise WithheldError(text) from error
        return self._loaded[name]


def _load(asked: Asked, place: ClassifierPlace) -> _Loaded:
    module, _, function = asked.loader.partition(":")
    load: ClassifierLoader = getattr(import_module(module), function)
    classifier = load(place)
    floor = float(classifier.floor)
    if not 0 < floor <= 1:
        raise ValueError(f"its floor is {floor:g}, not more than 0 and up to 1")
    threshold = floor if asked.threshold is None else asked.threshold
    if threshold > floor:
        raise ValueError(f"{threshold:g} is laxer than its floor of {floor:g}")
    return _Loaded(classifier, threshold)


def _scores(
    loaded: _Loaded, frames: npt.NDArray[np.uint8], *, first: int
) -> npt.NDArray[np.float64]:
    """Return the scores of a batch, float64 [F], each in 0 to 1; `first` is its first frame."""
    import numpy as np

    name = loaded.classifier.name
    last = first + len(frames) - 1
    try:
        scores = np.asarray(loaded.classifier.scores(frames), dtype=np.float64)
    except Exception as error:
        text = f"{name} failed on frames {first} to {last} ({_words(error)}). {_NOT_KEPT}."
        raise WithheldError(text) from error
    if scores.shape != (len(frames),):
        text = (
            f"{name} answered frames {first} to {last} with scores of shape {scores.shape}, not "
            f"one a frame. {_NOT_KEPT}."
        )
        raise WithheldError(text)
    unsound = np.flatnonzero(~((scores >= 0) & (scores <= 1)))  # NaN is neither
    if len(unsound):
        at = int(unsound[0])
        text = f"{name} gave frame {first + at} the score {scores[at]:g}, not 0 to 1. {_NOT_KEPT}."
        raise WithheldError(text)
    return scores


def _words(error: Exception) -> str:
    said = str(error).strip()
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
