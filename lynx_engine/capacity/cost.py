"""How much a clip computes and moves, and how long that takes at measured speeds.

The counts are closed forms (multiply and add are two operations); the speeds are those a
`Calibration` holds. It measures nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from lynx_engine.capacity.architecture import (
    REFERENCE_TOKENS,
    TEXT_TOKENS,
    Architecture,
    VaeSize,
)
from lynx_engine.capacity.extras import NO_EXTRAS, Extras
from lynx_engine.capacity.memory import BYTES_OF
from lynx_engine.capacity.placement import Placement
from lynx_engine.shapes import FrameSize

_REFERENCE_PX = 256


@dataclass(frozen=True, slots=True)
class Speeds:
    """What was measured on a device.

    Attributes:
        matrix_rate: Sustained operations a second of a large matrix product.
        upload_rate: Bytes a second from host memory to the device; 0 where it is the same memory.
        block_s: c, a, b: one block with adapters takes c + a L + b L^2 seconds for L tokens.
        pass_s: c, a: what is outside the blocks takes c + a L seconds a pass.
        step_s: Solver and guidance, seconds a step.
        text_layer_s: One layer of the text encoder for one prompt.
        decode_s: c, a: decoding takes c + a n seconds for n pixels of all frames.
    """

    matrix_rate: float
    upload_rate: float
    block_s: tuple[float, float, float]
    pass_s: tuple[float, float]
    step_s: float
    text_layer_s: float
    decode_s: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Work:
    """The shape of one clip.

    Attributes:
        frames: F.
        size: Width and height in pixels.
        steps: Sampling steps.
        precision: Of the transformer.
        extras: Its shortcut and LoRAs.
    """

    frames: int
    size: FrameSize
    steps: int
    precision: str
    extras: Extras = NO_EXTRAS


def pass_operations(architecture: Architecture, tokens: int) -> int:
    """Return the operations of one pass over L tokens, adapters included."""
    t, adapters = architecture.transformer, architecture.adapters
    d = t.width
    seen = tokens + TEXT_TOKENS
    identity = 0
    if adapters is not None:
        seen += REFERENCE_TOKENS if adapters.reference else 0
        layers = adapters.identity_layers(t.blocks)
        identity = layers * 4 * tokens * (adapters.tokens + adapters.registers) * d
    matrices = 2 * tokens * (6 * d * d + 2 * d * t.ffn_width) + 4 * TEXT_TOKENS * d * d
    attention = 4 * tokens * seen * d
    ends = 2 * TEXT_TOKENS * (t.text_width * d + d * d) + 4 * tokens * 4 * t.channels * d
    return t.blocks * (matrices + attention) + identity + ends


def decode_operations(vae: VaeSize, frames: int, pixels: int) -> int:
    """Return the operations of decoding F frames of `pixels` pixels each."""
    widths = [vae.base * m for m in (vae.multiples[-1], *vae.multiples[::-1])]
    latent = (frames - 1) // 4 + 1
    deepest, steps, count = len(vae.multiples) - 1, latent, 0
    cells = steps * (pixels >> 2 * deepest)
    top = widths[0]
    # Input, two residual units, and one attention of the deepest level with its projections.
    count += cells * (27 * vae.channels * top + 4 * 27 * top * top + 4 * top * top)
    count += 2 * cells * (pixels >> 2 * deepest) * top
    for level, (into, out) in enumerate(pairwise(widths)):
        cells = steps * (pixels >> 2 * (deepest - level))
        entering = into if level == 0 else into // 2
        shortcut = entering * out if entering != out else 0
        count += cells * (27 * out * (entering + (2 * vae.residuals + 1) * out) + shortcut)
        if level == deepest:
            continue
        if vae.halves_time[::-1][level]:
            count += cells * 3 * out * 2 * out
            steps = 2 * steps - 1
        count += steps * (pixels >> 2 * (deepest - level - 1)) * 9 * out * (out // 2)
    return 2 * (count + steps * pixels * 27 * widths[-1] * 3)


def clip_operations(architecture: Architecture, work: Work) -> int:
    """Return the operations of a whole clip but for its text, which is a thousandth."""
    tokens = architecture.transformer.tokens(work.frames, work.size.height_px, work.size.width_px)
    passes = work.steps * work.extras.branches(architecture)
    pixels = work.size.height_px * work.size.width_px
    sampled = passes * (pass_operations(architecture, tokens) + _lora_operations(work, tokens))
    return sampled + decode_operations(architecture.vae, work.frames, pixels)


def predict_seconds(
    architecture: Architecture, work: Work, placement: Placement, speeds: Speeds
) -> Mapping[str, float]:
    """Return stage -> seconds: text, subject, denoise, decode.

    A streamed block arrives while the one before it computes; where the journey takes longer, the
    device waits for it. What a step cache will leave out depends on the clip: with one, the time is
    the longest it takes.

    Args:
        architecture: The variant's networks.
        work: The clip.
        placement: Where its tensors lie.
        speeds: Of the device.
    """
    tokens = architecture.transformer.tokens(work.frames, work.size.height_px, work.size.width_px)
    denoise = work.steps * (
        work.extras.branches(architecture)
        * (
            _pass_seconds(architecture, tokens, work, placement, speeds)
            + _lora_operations(work, tokens) / speeds.matrix_rate
        )
        + speeds.step_s
    )
    number = BYTES_OF[work.precision]
    t, adapters = architecture.transformer, architecture.adapters
    pixels = work.frames * work.size.height_px * work.size.width_px
    sets, subject = work.extras.adapter_sets, 0.0
    if adapters is not None:
        numbers = adapters.identity_numbers(t) + adapters.reference_numbers(t)
        subject += _upload_seconds(sets * numbers * number, speeds)
        if adapters.reference:
            subject += sets * _pass_seconds(architecture, REFERENCE_TOKENS, work, placement, speeds)
            # Stills are encoded by as many convolutions as decode one.
            subject += sets * speeds.decode_s[1] * _REFERENCE_PX**2
    decode = speeds.decode_s[0] + speeds.decode_s[1] * pixels
    if placement.blocks_leave_for_decode:
        staying = t.blocks - placement.streamed_blocks
        decode += _upload_seconds(staying * t.block_numbers * number, speeds)
    text = work.extras.prompts * architecture.text.layers * speeds.text_layer_s
    text += _upload_seconds(architecture.text.numbers * number, speeds)
    subject += _upload_seconds(work.extras.lora_numbers * number, speeds)
    return {"text": text, "subject": subject, "denoise": denoise, "decode": decode}


def _pass_seconds(
    architecture: Architecture, tokens: int, work: Work, placement: Placement, speeds: Speeds
) -> float:
    t = architecture.transformer
    c, a, b = speeds.block_s
    block = c + a * tokens + b * tokens**2
    journey = _upload_seconds(t.block_numbers * BYTES_OF[work.precision], speeds)
    streamed = min(placement.streamed_blocks, t.blocks)
    blocks = (t.blocks - streamed) * block + streamed * max(block, journey)
    return blocks + speeds.pass_s[0] + speeds.pass_s[1] * tokens


def _lora_operations(work: Work, tokens: int) -> int:
    """Return the operations that LoRAs add to a pass: each of their numbers meets each token."""
    return 2 * tokens * work.extras.lora_numbers


def _upload_seconds(count: float, speeds: Speeds) -> float:
    return count / speeds.upload_rate if speeds.upload_rate else 0.0
