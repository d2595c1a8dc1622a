"""The dimensions of a variant's networks, and how many numbers each of them holds.

The defaults are the published 14B ones (arXiv 2503.20314 and 2509.15496). It opens no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

TEXT_TOKENS = 512
"""Text tokens that every block's cross-attention sees, padding included."""
REFERENCE_TOKENS = 256
"""L of one reference feature: a crop of 256 pixels in cells of 16."""


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


def _conv(into: int, out: int, taps: int) -> int:
    return into * out * taps + out


def _residual(into: int, out: int) -> int:
    shortcut = _conv(into, out, 1) if into != out else 0
    return into + out + _conv(into, out, 27) + _conv(out, out, 27) + shortcut


def _middle(width: int) -> int:
    return 2 * _residual(width, width) + width + _conv(width, 3 * width, 1) + _conv(width, width, 1)
