"""Builds the parts of an engine from a variant's folder; at first every weight is in its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lynx_engine.models.blocks import TransformerResidence
from lynx_engine.models.checkpoint import check_kind, read_config, weights_error
from lynx_engine.models.compiling import wants_compile
from lynx_engine.models.device import PRECISIONS, memory_errors
from lynx_engine.models.placing import Placer
from lynx_engine.models.subject import SubjectModels, load_subject_models
from lynx_engine.models.text import TextEncoder, load_text_encoder
from lynx_engine.models.vae import VideoAutoencoder, load_vae
from lynx_engine.models.wan import WanDenoiser, attention_on, build_denoiser
from lynx_engine.variants.dimensions import architecture_of

if TYPE_CHECKING:
    from lynx_engine.capacity.architecture import Architecture
    from lynx_engine.folders import ModelsPlace
    from lynx_engine.variants.spec import VariantSpec

# What the released schedule is built on; diffusers' own defaults describe another model's.
_FLOW_SCHEDULE: Mapping[str, object] = {
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
}


@dataclass(frozen=True, slots=True, eq=False)
class EngineParts:
    """The networks of one variant on one device.

    Attributes:
        device: Where they compute.
        scheduler_config: Settings of the base's scheduler.
        text: Prompts -> text tokens.
        denoiser: Noisy latents -> velocities.
        vae: Pictures -> latents and back.
        subject: Recogniser, resampler and adapters; None in a variant without identity.
        placer: Says which of their weights are on the device.
        architecture: Their dimensions, by which it is estimated what fits.
    """

    device: torch.device
    scheduler_config: dict[str, object]
    text: TextEncoder
    denoiser: WanDenoiser
    vae: VideoAutoencoder
    subject: SubjectModels | None
    placer: Placer
    architecture: Architecture | None


@dataclass(slots=True)
class WorkCounters:
    """How often the engine did what it should not do twice; counted since it was loaded."""

    model_loads: int = 0
    text_encodes: int = 0
    face_runs: int = 0
    reference_passes: int = 0
    kv_sets: int = 0
    vae_decodes: int = 0
    cached_passes: int = 0


def load_parts(
    spec: VariantSpec,
    *,
    weights_dir: ModelsPlace,
    device: str,
    precision: str,
    attention: str,
    compile_blocks: str,
    cache_dir: Path | None,
) -> EngineParts:
    """Build the parts and compare their files with them; no weight is read.

    Args:
        spec: The variant.
        weights_dir: Folder of the public layout.
        device: `cpu`, `cuda:0`, ...
        precision: Type of transformer, text encoder and resampler: float32, bfloat16 or float16.
        attention: Attention backend, `auto` or a name of `models.backends`.
        compile_blocks: Whether the transformer's blocks are compiled: auto, on or off.
        cache_dir: Where copies of streamed blocks may lie; None makes none.

    Raises:
        RowError: WEIGHTS, if a file is missing, damaged or does not fit, or if `attention` cannot
            run here; OUT_OF_MEMORY.
    """
    place, dtype = torch.device(device), PRECISIONS[precision]
    base = weights_dir / spec.base
    with memory_errors(f"{spec.name} did not load"):
        denoiser, source = build_denoiser(
            base,
            spec,
            attention=attention_on(place, attention, precision),
            compiles=wants_compile(compile_blocks, place),
        )
        blocks = TransformerResidence(
            denoiser.transformer, source, device=place, dtype=dtype, cache_dir=cache_dir
        )
        vae = load_vae(base, device=place)
        subject = load_subject_models(spec, weights_dir, denoiser, device=place, dtype=dtype)
        others = (vae.residence, *(subject.residences if subject else ()))
        return EngineParts(
            device=place,
            scheduler_config=_read_scheduler_config(base),
            text=load_text_encoder(base, device=place, dtype=dtype),
            denoiser=denoiser,
            vae=vae,
            subject=subject,
            placer=Placer(denoiser, blocks, others),
            architecture=architecture_of(spec, weights_dir),
        )


def _read_scheduler_config(base: Path) -> dict[str, object]:
    path = base / "scheduler" / "scheduler_config.json"
    config = read_config(path)
    check_kind(path, config.get("_class_name"), "UniPCMultistepScheduler")
    if "flow_shift" not in config or not _FLOW_SCHEDULE.items() <= config.items():
        raise weights_error(
            path, f"holds no flow schedule, which has a flow_shift and {dict(_FLOW_SCHEDULE)}"
        )
    return config
