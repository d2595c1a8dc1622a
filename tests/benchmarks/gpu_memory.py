"""P10 on a GPU: the peak and the pace of each memory tier, by the engine's own placing.

The weights are random and lie in host memory, where an engine's lie in mapped files. A step is
guided as in a clip, then the clip is decoded in float32, the largest way. Text is not encoded, and
there is no recogniser and no resampler: neither is in the device's largest moment.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn

from lynx_engine.capacity.architecture import TransformerSize, VaeSize
from lynx_engine.capacity.choose import choose_placement
from lynx_engine.capacity.memory import GIB
from lynx_engine.capacity.placement import Placement
from lynx_engine.diffusion.guidance import IdentityGuidance
from lynx_engine.models.attention import AdapterKV, KeyValue
from lynx_engine.models.backends import AttentionChoice
from lynx_engine.models.blocks import TransformerResidence
from lynx_engine.models.compiling import wants_compile
from lynx_engine.models.placing import Placer
from lynx_engine.models.residence import Residence
from lynx_engine.models.tensor_files import SafetensorsSource
from lynx_engine.models.tiers import placement_of_tier
from lynx_engine.models.vae import VideoAutoencoder
from lynx_engine.models.wan import WanDenoiser
from lynx_engine.shapes import FrameSize
from lynx_engine.variants import get_variant
from lynx_engine.variants.dimensions import architecture_of
from tests.benchmarks.guided_step import (
    IDENTITY_TOKENS,
    REFERENCE_TOKENS,
    REGISTERS,
    TEXT_TOKENS,
    RandomTensors,
    Shape,
)

VARIANT = "lynx_full"
CEILINGS_GIB = {"resident": 32.0, "24gb": 22.5, "16gb": 14.5, "8gb": 7.6}
_QUICK = {"resident": "resident", "16gb": "balanced", "8gb": "low"}
_BASE, _QUICK_BASE = 96, 8

Clock = Callable[[Callable[[], object]], float]
Tell = Callable[[str, "float | str"], None]


@dataclass(frozen=True, slots=True)
class HostSource(SafetensorsSource):
    """Tensors in host memory, which stand for files."""

    tensors: Mapping[str, torch.Tensor]

    def read(self, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
        wanted = frozenset(names)
        yield from ((name, tensor) for name, tensor in self.tensors.items() if name in wanted)


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """The networks of a clip in their places, and what it is made of."""

    placer: Placer
    blocks: TransformerResidence
    denoiser: WanDenoiser
    vae: VideoAutoencoder
    latents: torch.Tensor
    branches: Mapping[str, tuple[torch.Tensor, AdapterKV]]

    def step(self) -> torch.Tensor:
        timestep = torch.full((1,), 500, device=self.latents.device)
        with self.denoiser.step():
            velocities = [
                self.denoiser.velocity(self.latents, timestep, text=text, adapters=kv, branch=name)
                for name, (text, kv) in self.branches.items()
            ]
        return IdentityGuidance(text=5.0, identity=2.0).combine(velocities)

    def leave(self) -> None:
        """Let every network wait in host memory, as when a process starts."""
        self.blocks.leave()
        self.vae.residence.leave()

    def run(self, placement: Placement, clock: Clock) -> float:
        """Return the seconds of a step in the middle of a clip, which is decoded then."""
        self.placer.start(placement, job_size=0, strict=False)
        self.placer.apply()
        with self.denoiser.clip("normal"):
            self.step()
            seconds = clock(self.step)
        self.placer.make_room_to_decode()
        self.vae.decode(self.latents, tiled=placement.vae_tiled)
        return seconds


def make_clip(
    shape: Shape, transformer: WanTransformer3DModel, attention: AttentionChoice, *, quick: bool
) -> Clip:
    """Let the weights of `transformer` move to host memory, and make all else for a clip."""
    spec, device, dtype = get_variant(VARIANT), transformer.device, transformer.dtype
    source = host_source(transformer)
    denoiser = WanDenoiser(
        transformer, spec, attention=attention, compiles=wants_compile("auto", device)
    )
    blocks = TransformerResidence(transformer, source, device=device, dtype=dtype, cache_dir=None)
    random = RandomTensors(device, dtype)
    kvs = [_subject(shape, random) for _ in range(2)]
    text, negative = (random.draw(1, TEXT_TOKENS, shape.text_width, std=1) for _ in range(2))
    inputs = {
        "unconditional": (negative, kvs[1]),
        "identity": (negative, kvs[0]),
        "full": (text, kvs[0]),
    }
    vae = make_vae(device, base=_QUICK_BASE if quick else _BASE)
    return Clip(
        placer=Placer(denoiser, blocks, (vae.residence,)),
        blocks=blocks,
        denoiser=denoiser,
        vae=vae,
        latents=random.draw(1, 16, *shape.cells, std=1, dtype=torch.float32),
        branches={name: inputs[name] for name in spec.branches},
    )


def host_source(network: nn.Module) -> HostSource:
    """Return a network's tensors in host memory."""
    tensors = {name: weight.detach().cpu() for name, weight in network.named_parameters()}
    path = Path("random")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return HostSource(path, dict.fromkeys(tensors, path), shapes, {}, tensors)


def make_vae(device: torch.device, *, base: int) -> VideoAutoencoder:
    """Return an autoencoder of random weights, which wait in host memory."""
    vae = AutoencoderKLWan(base_dim=base).eval().requires_grad_(False)
    source = host_source(vae)
    residence = Residence(vae, source, device=device, dtypes=lambda _: torch.float32)
    return VideoAutoencoder(vae, residence, device)


def placements(shape: Shape, *, quick: bool) -> dict[str, Placement]:
    """Return the placement of each tier by the engine's estimate for a card of its size."""
    if quick:
        return {n: placement_of_tier(tier, blocks=shape.blocks) for n, tier in _QUICK.items()}
    published = architecture_of(get_variant(VARIANT), None)
    assert published is not None
    size = TransformerSize(shape.blocks, shape.heads, shape.head_width, shape.ffn, shape.text_width)
    frames, height, width = shape.cells
    return {
        name: choose_placement(
            "resident" if name == "resident" else "auto",
            replace(published, transformer=size, vae=VaeSize(_BASE)),
            frames=4 * (frames - 1) + 1,
            size=FrameSize(8 * width, 8 * height),
            precision="bfloat16",
            numerics="normal",
            free_bytes=round(ceiling * GIB),
        )
        for name, ceiling in CEILINGS_GIB.items()
    }


def bench_tiers(
    shape: Shape,
    transformer: WanTransformer3DModel,
    attention: AttentionChoice,
    *,
    quick: bool,
    clock: Clock,
    tell: Tell,
) -> None:
    """Tell P10: each tier's peak in GiB, and its seconds as a multiple of resident's.

    Each runs with no more memory than its card has, as far as torch's allocator goes.

    Args:
        shape: Sizes of the base model and of the clip.
        transformer: Random weights; its tensors leave the device.
        attention: The backend.
        quick: Whether sizes are small.
        clock: Times a step.
        tell: Told each figure at once.
    """
    clip = make_clip(shape, transformer, attention, quick=quick)
    device, resident_s = clip.latents.device, 0.0
    for name, placement in placements(shape, quick=quick).items():
        clip.leave()
        if device.type == "cuda":
            _start_as_card(device, CEILINGS_GIB[name])
        try:
            seconds = clip.run(placement, clock)
        except torch.OutOfMemoryError as error:
            tell(f"P10_{name}_gib", f"did not fit: {str(error)[:60]}")
            continue
        resident_s = resident_s or seconds
        tell(f"P10_{name}_streamed", placement.streamed_blocks)
        tell(f"P10_{name}_time", seconds / resident_s)
        if device.type == "cuda":
            tell(f"P10_{name}_gib", torch.cuda.max_memory_allocated(device) / GIB)
            tell(f"P10_{name}_reserved_gib", torch.cuda.max_memory_reserved(device) / GIB)


def _start_as_card(device: torch.device, gib: float) -> None:
    """Have torch take no more than a card of this size has, and count its peak from here."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total), device)
    torch.cuda.reset_peak_memory_stats(device)


def _subject(shape: Shape, random: RandomTensors) -> AdapterKV:
    """Return a branch's keys and values as the adapters of full make them for every block."""

    def pair(length: int) -> KeyValue:
        size = (1, length, shape.heads, shape.head_width)
        return KeyValue(random.draw(*size, std=1), random.draw(*size, std=1))

    blocks = range(shape.blocks)
    return AdapterKV(
        {number: pair(IDENTITY_TOKENS + REGISTERS) for number in blocks},
        {number: pair(REFERENCE_TOKENS) for number in blocks},
    )
