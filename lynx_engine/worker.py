"""What runs in a device process: an engine kept warm, a job in, a checked temp clip and facts out.

It writes the one temp file it is told to write; publishing and recording belong to the campaign.
It knows neither Dask nor Prefect.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.jobs import ClipFacts, RenderJob, WorkerFacts
from lynx_engine.media.images import inspect_photo, read_photo
from lynx_engine.media.video import ClipFormat, check_clip, encode_clip
from lynx_engine.variants import get_variant

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lynx_engine.engine import RenderEngine
    from lynx_engine.identity.embed import SubjectFace

logger = logging.getLogger(__name__)

T = TypeVar("T")

OnStage = Callable[[str, int, int], None]
"""Told of progress: stage name, steps done, steps in all."""


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a device process must know before its first job.

    Attributes:
        device: `cpu` or `cuda:N`, as the pool counts them and records name it.
        torch_device: The same device as this process sees it.
        models_dir: Downloaded weights, in the public layout.
        cache_dir: Weights made on this machine.
        threads: CPU threads of torch.
    """

    device: str
    torch_device: str
    models_dir: Path
    cache_dir: Path
    threads: int


@dataclass(frozen=True, slots=True)
class FaceRequest:
    """One face to embed, with the recogniser of `variant`.

    Attributes:
        variant: Registry name.
        precision: As the jobs that will follow ask for it.
        photo: The subject photo.
        photo_digest: sha256 its bytes had when the campaign was planned.
        landmarks: float32 [5, 2], (x, y) in pixels of the photo.
    """

    variant: str
    precision: str
    photo: Path
    photo_digest: str
    landmarks: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RenderTask:
    """One attempt at one job.

    Attributes:
        job: The request.
        face: The subject's face; None for a variant without identity.
        draft: The temp file to write, in a folder that exists.
    """

    job: RenderJob
    face: SubjectFace | None
    draft: Path


@dataclass(frozen=True, slots=True)
class ClipDraft:
    """A clip that passed its check and waits to be published.

    Attributes:
        path: The temp file, on disk to the last byte.
        clip: What decoding it showed.
        worker: Where and how it was made.
        started_at: UTC, when the device took the job.
    """

    path: Path
    clip: ClipFacts
    worker: WorkerFacts
    started_at: datetime


class DeviceWorker:
    """Renders on one device, keeping the engine of the last variant loaded."""

    def __init__(self, setup: WorkerSetup) -> None:
        """Take the device; nothing is loaded before the first request."""
        import torch

        torch.set_num_threads(setup.threads)
        self._setup = setup
        self._engine: RenderEngine | None = None
        self._engine_key = ("", "")
        self._weights: dict[str, str] = {}
        self._uncharged_load_s = 0.0

    def embed_face(self, request: FaceRequest) -> SubjectFace:
        """Embed the face at known landmarks.

        Raises:
            RowError: With code `image` (also if the photo changed since planning) or `weights`.
        """
        _check_unchanged(request)
        engine = self._load(request.variant, request.precision)
        return engine.embed_face(read_photo(request.photo), request.landmarks)

    def render(self, task: RenderTask, on_stage: OnStage) -> ClipDraft:
        """Render, encode and check one clip.

        Raises:
            RowError: With the code of the stage that failed; the temp file is gone then.
        """
        started_at = datetime.now(UTC)
        job = task.job
        on_stage("load", 0, 1)
        engine = self._load(job.variant, job.precision)
        load_s, self._uncharged_load_s = self._uncharged_load_s, 0.0
        rendering = engine.render(job, task.face, on_stage=on_stage)
        clip = ClipFormat(job.frames, job.fps, job.size, job.codec, job.crf)
        try:
            on_stage("encode", 0, 1)
            _, encode_s = _timed(partial(encode_clip, rendering.frames, task.draft, clip))
            on_stage("check", 0, 1)
            facts, check_s = _timed(partial(check_clip, task.draft, clip))
        except BaseException:
            task.draft.unlink(missing_ok=True)
            raise
        return ClipDraft(
            path=task.draft,
            clip=facts,
            worker=WorkerFacts(
                device=self._setup.device,
                device_name=_device_name(self._setup.torch_device),
                attention_backend=rendering.attention_backend,
                memory_tier=rendering.memory_tier,
                stages_s={
                    "load": load_s,
                    **rendering.stages_s,
                    "encode": encode_s,
                    "check": check_s,
                },
                threads=self._setup.threads,
                peak_memory_bytes=rendering.peak_memory_bytes,
                weights=self._weights,
            ),
            started_at=started_at,
        )

    def _load(self, variant: str, precision: str) -> RenderEngine:
        """Return the engine of a variant; the clip that comes next is charged with its load."""
        if self._engine is not None and self._engine_key == (variant, precision):
            return self._engine
        from lynx_engine.engine import RenderEngine
        from lynx_engine.models.checkpoint import ensure_weights
        from lynx_engine.models.fingerprint import locked_digests, required_files

        self._engine = None  # the old model leaves the device before the new one comes
        started = time.monotonic()
        spec = get_variant(variant)
        weights_dir = ensure_weights(
            spec, models_dir=self._setup.models_dir, cache_dir=self._setup.cache_dir
        )
        self._engine = RenderEngine.load(
            spec, weights_dir=weights_dir, device=self._setup.torch_device, precision=precision
        )
        self._engine_key = (variant, precision)
        locked = locked_digests(weights_dir)
        self._weights = {
            path: locked[path] for path in required_files(spec, weights_dir) if path in locked
        }
        load_s = time.monotonic() - started
        self._uncharged_load_s += load_s
        logger.info("loaded %s on %s in %.1f s", variant, self._setup.device, load_s)
        return self._engine


def _check_unchanged(request: FaceRequest) -> None:
    if inspect_photo(request.photo).digest != request.photo_digest:
        raise RowError(
            ErrorCode.IMAGE,
            f"{request.photo} changed after the campaign was planned. Run the command again.",
        )


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.monotonic()
    return work(), time.monotonic() - started


def _device_name(torch_device: str) -> str:
    import platform

    import torch

    if torch_device == "cpu":
        return platform.processor() or platform.machine()
    return torch.cuda.get_device_name(torch_device)
