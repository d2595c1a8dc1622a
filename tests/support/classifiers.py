"""Safety classifiers by dotted path: one that knows red frames by their pixels, and faulty ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lynx_engine.safety.classifiers import ClassifierPlace

HERE = __name__


@dataclass
class Stub:
    """See `Classifier`; `answer` is asked for the scores."""

    answer: Callable[[npt.NDArray[np.uint8]], npt.ArrayLike]
    name: str = "stub 1"
    licence: str = "none"
    floor: float = 0.5
    seen: list[int] = field(default_factory=list)

    def scores(self, frames: npt.NDArray[np.uint8]) -> npt.ArrayLike:
        self.seen.append(len(frames))
        return self.answer(frames)


def redness(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return how much more red than green a frame is, 0 to 1, [F]."""
    mean = frames.mean(axis=(1, 2))
    return np.clip((mean[:, 0] - mean[:, 1]) / 255, 0, 1)


def load_red(place: ClassifierPlace) -> Stub:
    del place
    return Stub(redness)


def load_never(place: ClassifierPlace) -> Stub:
    raise FileNotFoundError(f"no weights in {place.models_dir}")


def load_lax(place: ClassifierPlace) -> Stub:
    del place
    return Stub(redness, floor=float("nan"))


def _fail(frames: npt.NDArray[np.uint8]) -> npt.ArrayLike:
    del frames
    raise ZeroDivisionError("a bug in the classifier")


def _time_out(frames: npt.NDArray[np.uint8]) -> npt.ArrayLike:
    del frames
    raise TimeoutError(110, "Connection timed out", "/network/model")


def _hang(frames: npt.NDArray[np.uint8]) -> npt.ArrayLike:
    time.sleep(1_000_000)
    return redness(frames)


def load_raising(place: ClassifierPlace) -> Stub:
    del place
    return Stub(_fail)


def load_timing_out(place: ClassifierPlace) -> Stub:
    del place
    return Stub(_time_out)


def load_nan(place: ClassifierPlace) -> Stub:
    del place
    return Stub(lambda frames: np.where(np.arange(len(frames)) == 3, np.nan, 0.0))


def load_negative(place: ClassifierPlace) -> Stub:
    del place
    return Stub(lambda frames: np.full(len(frames), -0.1))


def load_infinite(place: ClassifierPlace) -> Stub:
    del place
    return Stub(lambda frames: np.full(len(frames), np.inf))


def load_short(place: ClassifierPlace) -> Stub:
    del place
    return Stub(lambda frames: np.zeros(len(frames) - 1))


def load_tall(place: ClassifierPlace) -> Stub:
    del place
    return Stub(lambda frames: np.zeros((len(frames), 2)))


def load_words(place: ClassifierPlace) -> Stub:
    del place
    return Stub(lambda frames: ["fine"] * len(frames))


def load_hanging(place: ClassifierPlace) -> Stub:
    del place
    return Stub(_hang)


LOOKING = threading.Event()
"""Set when `load_waiting`'s classifier looks at its first frames."""
GO_ON = threading.Event()
"""What it waits for then."""


def _wait(frames: npt.NDArray[np.uint8]) -> npt.ArrayLike:
    LOOKING.set()
    assert GO_ON.wait(30)
    return redness(frames)


def load_waiting(place: ClassifierPlace) -> Stub:
    del place
    LOOKING.clear()
    GO_ON.clear()
    return Stub(_wait)
