"""The dimensions of a variant's networks, and how many numbers each of them holds.

Read from config files and safetensors headers where weights lie, else the published 14B ones
(arXiv 2503.20314 and 2509.15496). It opens no tensor and loads no torch.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

TEXT_TOKENS = 512
"""Text tokens that every block's cross-attention sees, padding included."""
REFERENCE_TOKENS = 256
"""L of one reference feature: a crop of 256 pixels in cells of 16."""
_HEADER_LIMIT_BYTES = 100 << 20

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class TransformerSize:
    """The denoiser.

    Attributes:
        blocks: How many.
        heads: N.
        head_width: D / N.
        ffn_width: Width inside the feed-forward.
        text_width: Width of the text tokens.
        frequency_width: Width of the timestep's sinusoids.
        channels: C of the latent.
        cell: Latent cells of one token along T, h and w.
    """

    blocks: int = 40
    heads: int = 40
    head_width: int = 128
    ffn_width: int = 13824
    text_width: int = 4096
    frequency_width: int = 256
    channels: int = 16
    cell: tuple[int, int, int] = (1, 2, 2)

    @property
    def width(self) -> int:
        """D."""
        return self.heads * self.head_width

    @property
    def block_exact(self) -> int:
        """Numbers of a block that stay float32: modulation and the cross-attention's norm."""
        return 8 * self.width

    @property
    def block_numbers(self) -> int:
        """Numbers of a block: two attentions, feed-forward, norms, modulation."""
        d, f = self.width, self.ffn_width
        attention = 4 * (d * d + d) + 2 * d
        return 2 * attention + 2 * d * f + f + d + self.block_exact

    @property
    def head_exact(self) -> int:
        """Numbers outside the blocks that stay float32: time embedding and last modulation."""
        d = self.width
        return self.frequency_width * d + d + d * d + d + 2 * d

    @property
    def head_numbers(self) -> int:
        """Numbers outside the blocks: patch, time and text embeddings, output."""
        d, patch = self.width, self.channels * prod(self.cell)
        time_projection = 6 * d * d + 6 * d
        text = self.text_width * d + d + d * d + d
        return (patch * d + d) + time_projection + text + (patch * d + patch) + self.head_exact

    @property
    def numbers(self) -> int:
        """Numbers in all."""
        return self.blocks * self.block_numbers + self.head_numbers

    def tokens(self, frames: int, height_px: int, width_px: int) -> int:
        """Return L of a clip of F frames, H x W pixels."""
        cells = ((frames - 1) // 4 + 1, height_px // 8, width_px // 8)
        return prod(count // step for count, step in zip(cells, self.cell, strict=True))


@dataclass(frozen=True, slots=True)
class TextSize:
    """The UMT5 encoder.

    Attributes:
        layers: How many.
        width: Of a token.
        inner: Heads times head width.
        heads: How many.
        ffn_width: Inside the gated feed-forward.
        vocabulary: Rows of the embedding table.
        buckets: Relative positions that a head tells apart.
    """

    layers: int = 24
    width: int = 4096
    inner: int = 4096
    heads: int = 64
    ffn_width: int = 10240
    vocabulary: int = 256384
    buckets: int = 32

    @property
    def layer_numbers(self) -> int:
        """Numbers of one layer."""
        attention = 4 * self.width * self.inner + self.buckets * self.heads
        return attention + 3 * self.width * self.ffn_width + 2 * self.width

    @property
    def numbers(self) -> int:
        """Numbers in all."""
        return self.vocabulary * self.width + self.layers * self.layer_numbers + self.width


@dataclass(frozen=True, slots=True)
class VaeSize:
    """The video autoencoder: four levels, each half the side of the one before.

    Attributes:
        base: Channels at full size.
        multiples: Channels of the levels, from full size down, as multiples of `base`.
        residuals: Residual blocks a level when encoding; decoding has one more.
        channels: C of the latent.
        halves_time: Whether time halves behind each level but the last.
    """

    base: int = 96
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    residuals: int = 2
    channels: int = 16
    halves_time: tuple[bool, ...] = (False, True, True)

    @property
    def numbers(self) -> int:
        """Numbers of encoder and decoder."""
        z = self.channels
        small = _conv(2 * z, 2 * z, 1) + _conv(z, z, 1)
        return self._encoder() + self._decoder() + small

    def decoder_convolutions(self) -> list[tuple[int, int]]:
        """Return (input channels, how often the side has halved) of each that looks back in time.

        Each keeps the last two frames it saw until the next ones come.
        """
        widths = [self.base * m for m in (self.multiples[-1], *self.multiples[::-1])]
        top = widths[0]
        deepest = len(self.multiples) - 1
        found = [(self.channels, deepest), *[(top, deepest)] * 4]
        for level, (into, out) in enumerate(pairwise(widths)):
            depth, entering = deepest - level, into if level == 0 else into // 2
            found += [(entering, depth), *[(out, depth)] * (2 * self.residuals + 1)]
            if level < deepest and self.halves_time[::-1][level]:
                found.append((out, depth))
        return [*found, (widths[-1], 0)]

    def _decoder(self) -> int:
        widths = [self.base * m for m in (self.multiples[-1], *self.multiples[::-1])]
        top, last = widths[0], widths[-1]
        count = _conv(self.channels, top, 27) + _middle(top)
        for level, (into, out) in enumerate(pairwise(widths)):
            entering = into if level == 0 else into // 2
            count += _residual(entering, out) + self.residuals * _residual(out, out)
            if level < len(self.multiples) - 1:
                count += _conv(out, out // 2, 9)
                count += _conv(out, 2 * out, 3) if self.halves_time[::-1][level] else 0
        return count + last + _conv(last, 3, 27)

    def _encoder(self) -> int:
        widths = [self.base * m for m in (1, *self.multiples)]
        count = _conv(3, widths[0], 27)
        for level, (into, out) in enumerate(pairwise(widths)):
            count += _residual(into, out) + (self.residuals - 1) * _residual(out, out)
            if level < len(self.multiples) - 1:
                count += _conv(out, out, 9)
                count += _conv(out, out, 3) if self.halves_time[level] else 0
        top = widths[-1]
        return count + _middle(top) + top + _conv(top, 2 * self.channels, 27)


@dataclass(frozen=True, slots=True)
class AdapterSize:
    """What a variant adds for its subject.

    Attributes:
        block_stride: The identity adapter's layer j sits in block `block_stride * j`.
        token_width: D_in of the identity tokens.
        biased: Whether the projections have biases.
        tokens: Identity tokens.
        registers: Learned tokens behind them.
        reference: Whether every block has a reference layer.
        resampler_width: Width inside the resampler.
        resampler_layers: How many.
        recogniser: Numbers of the face encoder (IR-SE50 has 43.8 million).
    """

    block_stride: int
    token_width: int
    biased: bool
    tokens: int = 16
    registers: int = 0
    reference: bool = False
    resampler_width: int = 1280
    resampler_layers: int = 4
    recogniser: int = 43_800_000

    def identity_layers(self, blocks: int) -> int:
        """Return how many blocks have an identity layer."""
        return -(-blocks // self.block_stride)

    def identity_numbers(self, base: TransformerSize) -> int:
        """Numbers of the identity adapter."""
        bias = base.width if self.biased else 0
        layer = 2 * (self.token_width * base.width + bias) + self.registers * self.token_width
        return self.identity_layers(base.blocks) * layer

    def reference_numbers(self, base: TransformerSize) -> int:
        """Numbers of the reference adapter, 0 without one."""
        return base.blocks * 2 * (base.width**2 + base.width) if self.reference else 0

    @property
    def resampler_numbers(self) -> int:
        """Numbers of the resampler."""
        w, out = self.resampler_width, self.token_width
        layer = 4 * w * w + 4 * w + 2 * w + 8 * w * w
        ends = 512 * w + w + w * out + out + 2 * out
        return self.tokens * w + self.resampler_layers * layer + ends


@dataclass(frozen=True, slots=True)
class Architecture:
    """All networks of one variant.

    Attributes:
        transformer: The denoiser.
        text: The text encoder.
        vae: The video autoencoder.
        adapters: What the subject needs, or None for the base model alone.
        branches: Passes of one step.
        first_block_inputs: Text inputs that the branches of a step use: prompt and negative prompt.
    """

    transformer: TransformerSize
    text: TextSize
    vae: VaeSize
    adapters: AdapterSize | None
    branches: int
    first_block_inputs: int = 2

    @property
    def key(self) -> str:
        """What a speed of the transformer depends on, in one word."""
        t, a = self.transformer, self.adapters
        identity = f"i{a.block_stride}" if a is not None else ""
        reference = "r" if a is not None and a.reference else ""
        return f"{t.width}x{t.heads}-f{t.ffn_width}-{identity}{reference or '-'}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Dimensions known without a file.

    Attributes:
        configs: Component of the base model -> its config.
        identity: Tensors of the identity adapter, name -> shape.
    """

    configs: Mapping[str, Mapping[str, object]]
    identity: Shapes


def read_architecture(
    folder: Path | None,
    *,
    base: str,
    adapters: str,
    face_encoder: str,
    identity_stride: int | None,
    shares_text_key_norm: bool,
    uses_reference: bool,
    branches: int,
    layout: Layout | None = None,
) -> Architecture:
    """Return a variant's dimensions, of what lies on the disk, else as published for 14B.

    A file that is missing or cannot be read leaves the published number; loading names the fault.

    Args:
        folder: Of the public layout, or None.
        base: Base model, relative to `folder`.
        adapters: Folder of the adapter files, relative to `folder`.
        face_encoder: The recogniser, relative to `folder`.
        identity_stride: Blocks from one identity layer to the next; None without identity.
        shares_text_key_norm: Whether the identity tokens are as wide as the base (Lynx full).
        uses_reference: Whether a reference adapter is part of it.
        branches: Passes of one step.
        layout: What weights that are made here will look like; files go before it.
    """
    root = folder / base if folder is not None else None
    made = layout or Layout({}, {})

    def config(component: str) -> Mapping[str, object]:
        return _config(root, component) or made.configs.get(component, {})

    transformer = _transformer(config("transformer"))
    adapter = None
    if identity_stride is not None:
        layers = _shapes(folder, adapters, "ip_layers.safetensors") or made.identity
        resampler = _shapes(folder, adapters, "resampler.safetensors")
        width = transformer.width if shares_text_key_norm else 2048
        _, tokens, inner = resampler.get("latents", (1, 16, 1280))
        adapter = AdapterSize(
            block_stride=identity_stride,
            token_width=layers.get("0.to_k_ip.weight", (0, width))[1],
            biased=shares_text_key_norm,
            tokens=tokens,
            registers=layers.get("0.registers", (1, 0, 0))[1],
            reference=uses_reference,
            resampler_width=inner,
            resampler_layers=len({n.split(".")[1] for n in resampler if n.startswith("layers.")})
            or 4,
            recogniser=_recogniser(folder, face_encoder),
        )
    return Architecture(
        transformer,
        _text(config("text_encoder")),
        _vae(config("vae")),
        adapter,
        branches,
    )


def _conv(into: int, out: int, taps: int) -> int:
    return into * out * taps + out


def _residual(into: int, out: int) -> int:
    shortcut = _conv(into, out, 1) if into != out else 0
    return into + out + _conv(into, out, 27) + _conv(out, out, 27) + shortcut


def _middle(width: int) -> int:
    return 2 * _residual(width, width) + width + _conv(width, 3 * width, 1) + _conv(width, width, 1)


def _transformer(config: Mapping[str, object]) -> TransformerSize:
    known = TransformerSize()
    cell = config.get("patch_size", list(known.cell))
    return TransformerSize(
        blocks=_whole(config, "num_layers", known.blocks),
        heads=_whole(config, "num_attention_heads", known.heads),
        head_width=_whole(config, "attention_head_dim", known.head_width),
        ffn_width=_whole(config, "ffn_dim", known.ffn_width),
        text_width=_whole(config, "text_dim", known.text_width),
        frequency_width=_whole(config, "freq_dim", known.frequency_width),
        channels=_whole(config, "in_channels", known.channels),
        cell=(int(cell[0]), int(cell[1]), int(cell[2])) if isinstance(cell, list) else known.cell,
    )


def _text(config: Mapping[str, object]) -> TextSize:
    known = TextSize()
    heads = _whole(config, "num_heads", known.heads)
    return TextSize(
        layers=_whole(config, "num_layers", known.layers),
        width=_whole(config, "d_model", known.width),
        inner=heads * _whole(config, "d_kv", known.inner // known.heads),
        heads=heads,
        ffn_width=_whole(config, "d_ff", known.ffn_width),
        vocabulary=_whole(config, "vocab_size", known.vocabulary),
        buckets=_whole(config, "relative_attention_num_buckets", known.buckets),
    )


def _vae(config: Mapping[str, object]) -> VaeSize:
    known = VaeSize()
    multiples = config.get("dim_mult")
    halves = config.get("temperal_downsample")
    return VaeSize(
        base=_whole(config, "base_dim", known.base),
        multiples=tuple(multiples) if isinstance(multiples, list) else known.multiples,
        residuals=_whole(config, "num_res_blocks", known.residuals),
        channels=_whole(config, "z_dim", known.channels),
        halves_time=tuple(halves) if isinstance(halves, list) else known.halves_time,
    )


def _whole(config: Mapping[str, object], name: str, known: int) -> int:
    value = config.get(name)
    return value if isinstance(value, int) and value > 0 else known


def _config(root: Path | None, component: str) -> Mapping[str, object]:
    if root is None:
        return {}
    try:
        config = json.loads((root / component / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _shapes(folder: Path | None, *parts: str) -> Shapes:
    """Return name -> shape from the head of a safetensors file, {} when it cannot be read."""
    if folder is None:
        return {}
    try:
        with folder.joinpath(*parts).open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _HEADER_LIMIT_BYTES:
                return {}
            header = json.loads(file.read(length))
        return {
            name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error):
        return {}


def _recogniser(folder: Path | None, face_encoder: str) -> int:
    known = AdapterSize(1, 1, biased=False).recogniser
    if folder is None or not face_encoder:
        return known
    try:
        # float32 in both of the forms it comes in; the archive around it is small.
        return (folder / face_encoder).stat().st_size // 4
    except OSError:
        return known
