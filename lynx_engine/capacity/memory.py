"""Estimates the device memory of a job in closed form, item by item, in microseconds.

A job has three phases that can be its largest: its text is encoded, its steps are sampled, its
clip is decoded. In each, some tensors are held throughout and some live for a moment of the
computation. The tests compare every formula with a byte count of the real networks; whoever
changes what a block keeps alive changes its moment here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from lynx_engine.capacity.architecture import REFERENCE_TOKENS, TEXT_TOKENS, Architecture
from lynx_engine.capacity.extras import NO_EXTRAS, Extras
from lynx_engine.capacity.placement import Placement
from lynx_engine.shapes import FrameSize

GIB = 1 << 30
BYTES_OF: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number, by precision."""

CONTEXT_BYTES = 450 << 20
"""What CUDA itself takes in a process before its first tensor. Free memory that is read before the
process has touched its device still holds it."""
# Workspaces of cuBLAS and cuDNN, the allocator's small pools: not measured on a card yet.
_WORKSPACE_BYTES = 256 << 20
_PROCESS_BYTES = 600 << 20  # a worker process that renders tiny, less its model
# Gaps between tensors that come and go, and between weights, which stay.
_GAPS_MADE, _GAPS_HELD = 0.04, 0.01

_VISITING_BLOCKS = 2  # one computes, the next one arrives
_SOLVER_LATENTS = 10  # sample, solver's memory, velocities of the branches, float32
_CACHED = 3  # tensors [1, L, D] that a step cache keeps of each branch
_TILE_PX, _TILE_STRIDE_PX = 256, 192


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job needs of its device.

    Attributes:
        phases: Phase -> item -> bytes.
        reserve_bytes: For workspaces and gaps of the allocator.
    """

    phases: Mapping[str, Mapping[str, int]]
    reserve_bytes: int

    @property
    def largest_phase(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=self._phase_bytes)

    @property
    def peak_bytes(self) -> int:
        """Bytes of tensors in the largest phase."""
        return self._phase_bytes(self.largest_phase)

    @property
    def needed_bytes(self) -> int:
        """Free bytes that the device must have once CUDA has started."""
        return self.peak_bytes + self.reserve_bytes

    def _phase_bytes(self, phase: str) -> int:
        return sum(self.phases[phase].values())


def estimate_memory(
    architecture: Architecture,
    placement: Placement,
    *,
    frames: int,
    size: FrameSize,
    precision: str,
    extras: Extras = NO_EXTRAS,
) -> Estimate:
    """Return what a job needs of a GPU under a placement.

    Args:
        architecture: The variant's networks.
        placement: Where its tensors lie.
        frames: F.
        size: Width and height in pixels.
        precision: float32, bfloat16 or float16; the autoencoder is float32 always.
        extras: The job's shortcut and LoRAs.
    """
    number = BYTES_OF[precision]
    blocks = _block_items(architecture, placement, number)
    others = {} if placement.others_wait else _other_items(architecture, number)
    tokens = architecture.transformer.tokens(frames, size.height_px, size.width_px)
    phases = {
        "text": {**blocks, **others, **_text_items(architecture, number)},
        "denoise": {
            **blocks,
            **others,
            **_kept_items(architecture, placement, extras, tokens=tokens, number=number),
            "activations": denoise_moment_bytes(architecture, tokens, number, extras)
            + _SOLVER_LATENTS * _latent_bytes(architecture, frames, size),
        },
        "decode": {
            **({} if placement.blocks_leave_for_decode else blocks),
            **others,
            "autoencoder": _vae_bytes(architecture),
            "decode": decode_moment_bytes(architecture, frames, size, tiled=placement.vae_tiled),
        },
    }
    return Estimate(phases, _reserve(phases))


def estimate_host(
    architecture: Architecture,
    *,
    frames: int,
    size: FrameSize,
    precision: str,
    extras: Extras = NO_EXTRAS,
) -> Estimate:
    """Return what a job needs of the memory of a machine that renders on its CPU.

    Every network lies there all the time.
    """
    number = BYTES_OF[precision]
    placement = Placement("resident")
    gpu = estimate_memory(
        architecture, placement, frames=frames, size=size, precision=precision, extras=extras
    )
    held = {"text encoder": architecture.text.numbers * number}
    adapters, base = architecture.adapters, architecture.transformer
    if adapters is not None:
        numbers = adapters.identity_numbers(base) + adapters.reference_numbers(base)
        held["adapters"] = numbers * number
    held["python and torch"] = _PROCESS_BYTES
    phases = {name: {**items, **held} for name, items in gpu.phases.items()}
    return Estimate(phases, _reserve(phases))


def denoise_moment_bytes(
    architecture: Architecture, tokens: int, number: int, extras: Extras = NO_EXTRAS
) -> int:
    """Return the largest moment of one pass: what its operations have made and still need.

    Each moment counts tensors [1, L, D] by name; those in float32 are written as 4.

    Args:
        architecture: The variant's networks.
        tokens: L.
        number: Bytes of one number in the precision of the pass.
        extras: The job's shortcut and LoRAs.
    """
    t = architecture.transformer
    e, exact = number, 4
    copied = 0 if e == exact else exact  # .float() makes no copy of what is float32
    is_referenced = architecture.adapters is not None and architecture.adapters.reference
    moments = {
        # block input twice, attention's output, normed, fed forward; both of the sum in float32
        "feed-forward joins": 5 * e + 2 * copied + exact + (exact if e == exact else 0),
        # block input, normed, q, k, v, q and k turned; half-width products; the reference seen
        "keys turn": (7 + is_referenced) * e + exact + exact // 2,
        # block input twice, attention's output, normed; both sides of the activation function, or
        # layer, LoRA and their sum
        "feed-forward widens": 4 * e
        + (3 if extras.lora_numbers else 2) * ceil(e * t.ffn_width / t.width),
    }
    angles = 2 * tokens * t.head_width * exact
    text = extras.prompts * TEXT_TOKENS * t.width * number
    return tokens * t.width * max(moments.values()) + angles + text


def decode_moment_bytes(
    architecture: Architecture, frames: int, size: FrameSize, *, tiled: bool
) -> int:
    """Return the largest moment of decoding a clip, in float32.

    A clip is decoded one latent frame at a time, four pixel frames; every convolution that looks
    back in time keeps its last two input frames. The largest moment is a convolution at full size.
    """
    exact, clip = 4, 3 * frames * size.height_px * size.width_px * 4
    if not tiled or max(size.height_px, size.width_px) <= _TILE_PX:
        working = _decoding_bytes(architecture, size.height_px * size.width_px)
        # Then frames of the clip are turned to bytes: the clip, its clamp and two products.
        return max(working + clip, 4 * clip) + _latent_bytes(architecture, frames, size)
    tile_px = min(size.height_px, _TILE_PX) * min(size.width_px, _TILE_PX)
    high, wide = (_tiled_side(side) for side in (size.height_px, size.width_px))
    tiles = 3 * frames * high * wide * exact
    working = _decoding_bytes(architecture, tile_px) + 2 * 3 * frames * tile_px * exact
    # All tiles stay until they are blended: then the blended rows, the clip and its clamp beside.
    return max(tiles + working, tiles + 3 * clip, 4 * clip)


def _decoding_bytes(architecture: Architecture, pixels: int) -> int:
    vae = architecture.vae
    kept = sum(into * 2 * (pixels >> 2 * halved) for into, halved in vae.decoder_convolutions())
    # Of four frames: unit's input, its shortcut and normed; joined with two kept and padded; and
    # the two frames that will be kept.
    working = (4 + 4 + 4 + 6 + 6.1 + 2) * vae.base * pixels
    return round((kept + working) * 4)


def _tiled_side(side: int) -> int:
    return sum(min(_TILE_PX, side - start) for start in range(0, side, _TILE_STRIDE_PX))


def _block_items(architecture: Architecture, placement: Placement, number: int) -> dict[str, int]:
    t = architecture.transformer
    block = _mixed(t.block_numbers, t.block_exact, number)
    streamed = min(placement.streamed_blocks, t.blocks)
    return {
        "embeddings and output": _mixed(t.head_numbers, t.head_exact, number)
        + 2 * 1024 * t.head_width * 4,
        "resident blocks": (t.blocks - streamed) * block,
        "visiting blocks": min(streamed, _VISITING_BLOCKS) * block,
    }


def _other_items(architecture: Architecture, number: int) -> dict[str, int]:
    items = {"autoencoder": _vae_bytes(architecture)}
    adapters = architecture.adapters
    if adapters is not None:
        items["subject models"] = adapters.resampler_numbers * number + adapters.recogniser * 4
    return items


def _text_items(architecture: Architecture, number: int) -> dict[str, int]:
    x = architecture.text
    positions = 2 * x.heads * TEXT_TOKENS**2 * number
    tokens = TEXT_TOKENS * (4 * x.width + 4 * x.ffn_width) * number
    return {
        "visiting text layers": min(_VISITING_BLOCKS, x.layers) * x.layer_numbers * number,
        "text activations": positions + tokens,
    }


def _kept_items(
    architecture: Architecture, placement: Placement, extras: Extras, *, tokens: int, number: int
) -> dict[str, int]:
    t, adapters = architecture.transformer, architecture.adapters
    items = {"text tokens": extras.prompts * TEXT_TOKENS * t.text_width * number}
    if adapters is not None:
        identity = adapters.identity_layers(t.blocks) * (adapters.tokens + adapters.registers)
        reference = t.blocks * REFERENCE_TOKENS if adapters.reference else 0
        items["adapter K/V"] = extras.adapter_sets * 2 * (identity + reference) * t.width * number
    if placement.keeps_text_kv:
        items["text K/V"] = extras.prompts * 2 * t.blocks * TEXT_TOKENS * t.width * number
    if placement.shares_first_block:
        # The embedded clip and the first self-attention's output; where a reference is added to
        # it, the query and what it sees of the clip.
        shared = 3 if adapters is not None and adapters.reference else 2
        items["shared first block"] = shared * tokens * t.width * number
    if extras.is_cached:
        branches = extras.branches(architecture)
        items["step cache"] = _CACHED * branches * tokens * t.width * number
    if extras.lora_numbers:
        items["LoRAs"] = extras.lora_numbers * number
    return items


def _latent_bytes(architecture: Architecture, frames: int, size: FrameSize) -> int:
    cells = ((frames - 1) // 4 + 1) * (size.height_px // 8) * (size.width_px // 8)
    return architecture.transformer.channels * cells * 4


def _vae_bytes(architecture: Architecture) -> int:
    return architecture.vae.numbers * 4


def _mixed(numbers: int, exact: int, number: int) -> int:
    return (numbers - exact) * number + exact * 4


_MADE = frozenset({"activations", "decode", "text activations"})


def _reserve(phases: Mapping[str, Mapping[str, int]]) -> int:
    def gaps(items: Mapping[str, int]) -> float:
        return sum(
            bytes_ * (_GAPS_MADE if item in _MADE else _GAPS_HELD) for item, bytes_ in items.items()
        )

    return _WORKSPACE_BYTES + round(max(gaps(items) for items in phases.values()))
