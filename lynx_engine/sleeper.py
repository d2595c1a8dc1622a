"""The null renderer: sleeps instead of sampling and draws a test pattern; fails when told to.

Everything around the model is real: processes, deadlines, encoder, log. The prompt says what
happens, word by word; words of another form are prose, and pass:

    sleep=0.5            seconds of sampling, told of in as many steps as the row has
    load=2               seconds of loading the model, for the first row of a process
    fault=NAME           what goes wrong: a key of `FAULTS`
    once=/path/marker    the fault happens only while the file is not there, and makes it
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from lynx_engine.errors import ErrorCode, RowError, nearest
from lynx_engine.rendering import EnginePlace, LoadedEngine, OnStage, Rendering
from lynx_engine.results import Conditions

if TYPE_CHECKING:
    import numpy.typing as npt

    from lynx_engine.identity.embed import SubjectFace
    from lynx_engine.jobs import RenderJob
    from lynx_engine.variants.spec import VariantSpec

_FOREVER_S = 1_000_000


def _segfault() -> NoReturn:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("a process does not outlive its segfault")


def _hang_with_the_lock() -> NoReturn:
    # PyDLL calls keep the interpreter's lock: no thread of this process runs any more.
    ctypes.PyDLL(None).sleep(_FOREVER_S)
    raise AssertionError("nobody ended the hang")


def _hang() -> NoReturn:
    time.sleep(_FOREVER_S)
    raise AssertionError("nobody ended the hang")


def _lose_the_device() -> NoReturn:
    import torch

    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def _raise(error: Exception) -> NoReturn:
    raise error


FAULTS: Mapping[str, Callable[[], NoReturn]] = {
    "segfault": _segfault,
    "exit": lambda: os._exit(0),
    "hang": _hang,
    "hang_with_lock": _hang_with_the_lock,
    "device_lost": _lose_the_device,
    "exception": lambda: _raise(ZeroDivisionError("a bug in the null renderer")),
    "nan": lambda: _raise(RowError(ErrorCode.BAD_FRAMES, "the null renderer made NaN.")),
    "memory": lambda: _raise(RowError(ErrorCode.OUT_OF_MEMORY, "the null renderer is too big.")),
    "weights": lambda: _raise(RowError(ErrorCode.WEIGHTS, "the null renderer has no weights.")),
    "io": lambda: _raise(TimeoutError(110, "Connection timed out", "/network/disk")),
}
"""Name of a fault -> what does it."""


class Sleeper:
    """See `rendering.Engine`."""

    def __init__(self) -> None:
        """Start unloaded: the first row says how long loading takes."""
        self._is_loaded = False

    def embed_face(self, photo: npt.NDArray[np.uint8], landmarks: npt.ArrayLike) -> SubjectFace:
        """Refuse: nobody is to be seen in a test pattern."""
        raise NotImplementedError("the null renderer has no subjects")

    def render(
        self, job: RenderJob, face: SubjectFace | None, *, on_stage: OnStage | None = None
    ) -> Rendering:
        """Do what the prompt says; frames follow from seed and size alone."""
        del face
        words = dict(word.split("=", 1) for word in job.prompt.split() if "=" in word)
        sleep_s, load_s = _seconds(words, "sleep"), _seconds(words, "load")
        stages_s = {"text": 0.0, "subject": 0.0}
        if not self._is_loaded:
            # Known from the first prompt only, so it is slept here; it is told as loading.
            stages_s["load"] = load_s
            time.sleep(load_s)
            self._is_loaded = True
        started = time.perf_counter()
        for step in range(job.steps):
            if on_stage is not None:
                on_stage("denoise", step, job.steps)
            time.sleep(sleep_s / job.steps)
            if step == job.steps // 2:
                _fail_if_told(words)
        stages_s["denoise"] = time.perf_counter() - started
        frames = draw_pattern(job)
        stages_s["decode"] = time.perf_counter() - started - stages_s["denoise"]
        return Rendering(
            frames=frames,
            stages_s=stages_s,
            peak_memory_bytes=0,
            conditions=Conditions(attention_backend="none"),
        )


def _seconds(words: Mapping[str, str], name: str) -> float:
    told = words.get(name, "0")
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", told):
        text = f"the null renderer is told {name}={told}, which is no time; write {name}=0.5"
        raise RowError(ErrorCode.BAD_FRAMES, f"{text} for half a second.")
    return float(told)


def _fail_if_told(words: Mapping[str, str]) -> None:
    if "fault" not in words:
        return
    if "once" in words:
        try:
            Path(words["once"]).touch(exist_ok=False)
        except FileExistsError:
            return
    if words["fault"] not in FAULTS:
        known = nearest(words["fault"], FAULTS) or f"; there are {', '.join(FAULTS)}"
        text = f"the null renderer knows no fault '{words['fault']}'{known}."
        raise RowError(ErrorCode.BAD_FRAMES, text)
    FAULTS[words["fault"]]()


def draw_pattern(job: RenderJob) -> npt.NDArray[np.uint8]:
    """Return frames, RGB uint8 [F, H, W, 3]: stripes that move, with a phase from the seed."""
    row, column = np.mgrid[: job.size.height_px, : job.size.width_px]
    phase = np.arange(job.frames).reshape(-1, 1, 1) * 3 + job.seed % 64
    level = ((row + column)[None] + phase) % 64 * 4
    return np.stack([level, 255 - level, level // 2], axis=-1).astype(np.uint8)


def load_sleeper(spec: VariantSpec, place: EnginePlace) -> LoadedEngine:
    """Return a null renderer; it has no weights."""
    del spec, place
    return LoadedEngine(Sleeper(), {})
