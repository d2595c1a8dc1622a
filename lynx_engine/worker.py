"""What runs in a device process: an engine kept warm, a job in, a checked temp clip and facts out.

It writes the one temp file it is told to write; publishing and recording belong to the campaign.
It knows neither Dask nor Prefect.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lynx_engine.errors import PASSING, ErrorCode, RowError
from lynx_engine.licences import licences_of
from lynx_engine.media.burn_in import NO_LABEL, burn_in
from lynx_engine.media.images import inspect_photo, read_photo
from lynx_engine.media.poster import write_poster
from lynx_engine.media.tags import check_tags
from lynx_engine.media.video import (
    ClipFormat,
    check_clip,
    encode_clip,
    ffmpeg_version,
    read_frames,
)
from lynx_engine.orders import ClipDraft, FaceRequest, RenderTask, WorkerSetup
from lynx_engine.provenance.environment import driver_version
from lynx_engine.provenance.labels import TAGS
from lynx_engine.rendering import EngineLoader, EnginePlace, LoadedEngine, OnStage, Rendering
from lynx_engine.results import (
    NOTHING_FOUND,
    ClipFacts,
    Findings,
    Marks,
    WorkerFacts,
)
from lynx_engine.safety.check import SafetyCheck
from lynx_engine.safety.classifiers import ClassifierPlace
from lynx_engine.variants import get_variant

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lynx_engine.identity.embed import SubjectFace

logger = logging.getLogger(__name__)

T = TypeVar("T")

POISONED = 70
"""Exit code of a device process whose device answers nothing any more."""

_KEPT_RENDERINGS = 2


class DeviceWorker:
    """Renders on one device, keeping the engine of the last variant loaded.

    Its calls may come from several threads. One at a time has the device; a row gives it on when
    its frames are in host memory, and is encoded and checked while the next one renders.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        """Take the device; nothing is loaded before the first request."""
        # Without it, torch refuses deterministic matrix products (`numerics: strict`); cuBLAS reads
        # it once, when it starts. Here, as also a cluster's worker and the command itself render.
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        self._setup = setup
        self._loaded: LoadedEngine | None = None
        self._loaded_key = ("", "")
        self._uncharged_load_s = 0.0
        # A plain lock is fair here: of a device's two calls, one at most waits for the other.
        self._device = threading.Lock()
        # Frames that could not be encoded yet: an encoder's fault must not cost a rendering.
        self._unencoded: OrderedDict[str, Rendering] = OrderedDict()
        self._keeping = threading.Lock()
        place = ClassifierPlace(setup.models_dir, setup.cache_dir, setup.threads)
        self._safety = SafetyCheck(setup.classifiers, place)

    def embed_face(self, request: FaceRequest) -> SubjectFace:
        """Embed the face at known landmarks.

        Raises:
            RowError: With code `image` (also if the photo changed since planning) or `weights`.
        """
        _check_unchanged(request)
        with self._faults(), self._device:
            engine = self._engine(request.variant, request.precision).engine
            return engine.embed_face(read_photo(request.photo), request.landmarks)

    def render(self, task: RenderTask, on_stage: OnStage) -> ClipDraft:
        """Render, encode and check one clip.

        Frames that the encoder failed on are kept for the next attempt at the same job.

        Raises:
            RowError: With the code of the stage that failed; the temp file is gone then.
            WithheldError: If the safety check does not let the clip pass; the temp file and its
                frames are gone then.
        """
        job = task.job
        try:
            with self._faults():
                with self._device:
                    started_at = datetime.now(UTC)
                    if self._loaded_key != (job.variant, job.precision):
                        on_stage("load", 0, 1)
                    loaded = self._engine(job.variant, job.precision)
                    load_s, self._uncharged_load_s = self._uncharged_load_s, 0.0
                    rendering = self._rendering(loaded, task, on_stage)
                facts, finishing_s = self._encode(task, rendering, on_stage)
                # They are as large as the clip that is decoded now, and nobody needs them any more.
                rendering = replace(rendering, frames=rendering.frames[:0].copy())
                findings, poster, looking_s = self._look_at(task, on_stage)
        except BaseException:
            task.draft.unlink(missing_ok=True)
            raise
        return ClipDraft(
            path=task.draft,
            clip=facts,
            worker=WorkerFacts(
                device=self._setup.device,
                device_name=_device_name(self._setup.torch_device),
                conditions=rendering.conditions,
                stages_s={
                    **rendering.stages_s,
                    **finishing_s,
                    **looking_s,
                    "load": load_s + rendering.stages_s.get("load", 0.0),
                },
                threads=self._setup.threads,
                peak_memory_bytes=rendering.peak_memory_bytes,
                weights=loaded.weights,
                driver=driver_version(self._setup.torch_device),
                ffmpeg_version=ffmpeg_version(),
                licences=licences_of(job),
            ),
            started_at=started_at,
            findings=findings,
            marks=_marks_of(task),
            poster=poster,
        )

    def _rendering(self, loaded: LoadedEngine, task: RenderTask, on_stage: OnStage) -> Rendering:
        """Return what the job becomes: what the encoder failed on before, if that is kept."""
        with self._keeping:
            kept = self._unencoded.pop(task.job.job_id, None)
        return kept or loaded.engine.render(task.job, task.face, on_stage=on_stage)

    def _encode(
        self, task: RenderTask, rendering: Rendering, on_stage: OnStage
    ) -> tuple[ClipFacts, dict[str, float]]:
        """Label, encode and check the clip; return facts and seconds by stage.

        From here on, the device renders the next row meanwhile.
        """
        job = task.job
        clip = ClipFormat(job.frames, job.fps, job.size, job.codec, job.crf)
        try:
            on_stage("encode", 0, 1)
            _, encode_s = _timed(partial(_write_clip, rendering.frames, task, clip))
            on_stage("check", 0, 1)
            facts, check_s = _timed(partial(check_clip, task.draft, clip))
            check_tags(task.draft, task.tags)
        except RowError as error:
            if error.transient:
                with self._keeping:
                    self._unencoded[job.job_id] = rendering
                    if len(self._unencoded) > _KEPT_RENDERINGS:
                        self._unencoded.popitem(last=False)
            raise
        return facts, {"encode": encode_s, "check": check_s}

    def _look_at(
        self, task: RenderTask, on_stage: OnStage
    ) -> tuple[Findings, Path | None, dict[str, float]]:
        """Return what is found in a draft as it will be seen, its poster, and seconds by stage.

        Raises:
            WithheldError: If it must not be kept.
            RowError: BAD_CLIP or SCORE, if it cannot be looked at and must be.
        """
        from lynx_engine.examine import examine_frames

        job, verdict, seconds = task.job, None, dict[str, float]()
        is_checked = get_variant(job.variant).is_checked(job.safety)
        on_stage("safety" if is_checked else "score", 0, 1)
        started = time.monotonic()
        try:
            frames = read_frames(task.draft)
        except Exception as error:
            if is_checked or job.gate:
                raise
            logger.warning("nobody looked at %s: %s", job.clip_name, error)
            return NOTHING_FOUND, None, {}
        if is_checked:
            if len(frames) != job.frames:
                text = f"{len(frames)} of {job.frames} frames could be read for the safety check."
                raise RowError(ErrorCode.BAD_CLIP, text)
            verdict = self._safety.judge(frames, partial(on_stage, "safety"))
            seconds["safety"] = time.monotonic() - started
            on_stage("score", 0, 1)
            started = time.monotonic()
        findings = examine_frames(frames, job, task.likeness)
        seconds["score"] = time.monotonic() - started
        # Last of all: a clip that is not kept leaves no picture.
        return replace(findings, safety=verdict), _poster_of(frames, task), seconds

    @contextmanager
    def _faults(self) -> Generator[None]:
        """Give faults of disk and device their meaning."""
        try:
            yield
        except OSError as error:
            if error.errno not in PASSING:
                raise
            told = f"{error.filename or 'a file'}: {error.strerror}."
            raise RowError(ErrorCode.IO, told, transient=True) from error
        except Exception as error:
            if self._setup.expendable and _poisons_device(error):
                # Nothing runs on this device in this process any more. The pool replaces it.
                traceback.print_exception(error)
                os._exit(POISONED)
            raise

    def load(self, variant: str, precision: str) -> LoadedEngine:
        """Return the engine of a variant; the clip that comes next is charged with its load.

        Raises:
            RowError: With code `weights` or `out_of_memory`.
        """
        with self._device:
            return self._engine(variant, precision)

    def _engine(self, variant: str, precision: str) -> LoadedEngine:
        """Return the engine of a variant, to be used by this very thread, which has the device."""
        loaded = self._loaded_engine(variant, precision)
        # torch keeps this number for each thread that used it before (measured on 2.13), and sums
        # that are split otherwise round otherwise.
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(self._setup.threads)
        return loaded

    def _loaded_engine(self, variant: str, precision: str) -> LoadedEngine:
        if self._loaded is not None and self._loaded_key == (variant, precision):
            return self._loaded
        started = time.monotonic()
        self._loaded = None  # the old model leaves the device before the new one comes
        spec = get_variant(variant)
        module, _, function = spec.loader.partition(":")
        load_engine: EngineLoader = getattr(import_module(module), function)
        setup = self._setup
        self._loaded = load_engine(
            spec,
            EnginePlace(
                device=setup.torch_device,
                precision=precision,
                models_dir=setup.models_dir,
                cache_dir=setup.cache_dir,
                threads=setup.threads,
                attention=setup.attention,
                compile=setup.compile,
            ),
        )
        self._loaded_key = (variant, precision)
        load_s = time.monotonic() - started
        self._uncharged_load_s += load_s
        logger.info("loaded %s on %s in %.1f s", variant, setup.device, load_s)
        return self._loaded


def _poisons_device(error: Exception) -> bool:
    """Whether torch says that the device answers nothing further in this process."""
    torch = sys.modules.get("torch")
    kind = getattr(torch, "AcceleratorError", None)
    return kind is not None and isinstance(error, kind)


def _check_unchanged(request: FaceRequest) -> None:
    if inspect_photo(request.photo).digest != request.photo_digest:
        raise RowError(
            ErrorCode.IMAGE,
            f"{request.photo} changed after the campaign was planned. Run the command again.",
        )


def _write_clip(frames: npt.NDArray[np.uint8], task: RenderTask, clip: ClipFormat) -> None:
    # The rendered frames stay as they are: another attempt may label and encode them again.
    encode_clip(burn_in(frames, task.job.label, clip.fps), task.draft, clip, task.tags)


def _marks_of(task: RenderTask) -> Marks:
    label = task.job.label
    return Marks((*((TAGS,) if task.tags else ()), *((label,) if label != NO_LABEL else ())))


def _poster_of(frames: npt.NDArray[np.uint8], task: RenderTask) -> Path | None:
    try:
        write_poster(frames, task.poster)
    except Exception as error:  # noqa: BLE001  # a clip is good without its picture
        logger.warning("no poster of %s: %s", task.job.clip_name, error)
        return None
    return task.poster


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.monotonic()
    return work(), time.monotonic() - started


def _device_name(torch_device: str) -> str:
    if torch_device == "cpu":
        return platform.processor() or platform.machine()
    import torch

    return torch.cuda.get_device_name(torch_device)
