"""What an engine is to a worker, and what it makes. Importing this loads nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lynx_engine.folders import ModelsPlace
    from lynx_engine.identity.embed import SubjectFace
    from lynx_engine.jobs import RenderJob
    from lynx_engine.results import Conditions
    from lynx_engine.variants.spec import VariantSpec

OnStage = Callable[[str, int, int], None]
"""Told of progress: stage name, steps done, steps in all."""


@dataclass(frozen=True, slots=True, eq=False)
class Rendering:
    """What one job became.

    Attributes:
        frames: RGB, uint8, [F, H, W, 3].
        stages_s: Seconds by stage: text, subject, denoise, decode.
        peak_memory_bytes: Largest device memory during the job; on a CPU the process's largest
            resident size so far.
        conditions: How the device was used.
    """

    frames: npt.NDArray[np.uint8]
    stages_s: Mapping[str, float]
    peak_memory_bytes: int
    conditions: Conditions


class Engine(Protocol):
    """One loaded variant on one device."""

    def embed_face(self, photo: npt.NDArray[np.uint8], landmarks: npt.ArrayLike) -> SubjectFace:
        """Recognise one face; photo RGB uint8 [H, W, 3], landmarks [5, 2] in its pixels."""
        ...

    def render(
        self, job: RenderJob, face: SubjectFace | None, *, on_stage: OnStage | None = None
    ) -> Rendering:
        """Render one job; raises RowError."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine with what is known of its weights.

    Attributes:
        engine: The engine.
        weights: Weight file -> sha256, for the files whose digest is known.
    """

    engine: Engine
    weights: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """Where an engine is to be loaded, and from where.

    Attributes:
        device: torch's name of the device: `cpu`, `cuda:0`.
        precision: Type of transformer, text encoder and resampler: float32, bfloat16 or float16.
        models_dir: Downloaded weights, in the public layout.
        cache_dir: Weights made on this machine.
        threads: CPU threads of torch.
        attention: Attention backend asked for, `auto` or a name of `models.backends`.
        compile: Whether the transformer's blocks are compiled: auto, on or off.
    """

    device: str
    precision: str
    models_dir: ModelsPlace
    cache_dir: Path
    threads: int
    attention: str = "auto"
    compile: str = "auto"


EngineLoader = Callable[["VariantSpec", EnginePlace], LoadedEngine]
"""What `VariantSpec.loader` names."""
