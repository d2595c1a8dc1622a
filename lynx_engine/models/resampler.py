"""Turns an identity embedding into identity tokens: a perceiver.

Source: arXiv 2509.15496; tensor names of bytedance/lynx at 3a6a91a. Every width is read from the
tensors; only the head width is a constant of the architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from lynx_engine.models.checkpoint import (
    check_shapes,
    require_shape,
    shapes_of,
    weights_error,
)

HEAD_WIDTH = 64
FEED_FORWARD_FACTOR = 4


class PerceiverAttention(nn.Module):
    """The latents look at the input and at themselves."""

    def __init__(self, width: int, inner: int) -> None:
        """Attend at `width` with `inner` / 64 heads."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, source: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Return the update of `latents` [B, L, D], from `source` [B, S, D]."""
        source, latents = self.norm1(source), self.norm2(latents)
        query = self.to_q(latents)
        key, value = self.to_kv(torch.cat((source, latents), dim=1)).chunk(2, dim=-1)
        query, key, value = (
            x.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for x in (query, key, value)
        )
        seen = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(seen.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    """LayerNorm and a GELU layer of four times the width, without biases."""

    def __init__(self, width: int, hidden: int) -> None:
        """Widen `width` to `hidden` and back."""
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, hidden, bias=False),
            nn.GELU(),
            nn.Linear(hidden, width, bias=False),
        )


class Resampler(nn.Module):
    """identity_tokens = resampler(identity_embedding).

    The unconditional tokens are the resampler of a zero embedding, not zeros.
    """

    def __init__(
        self, *, tokens: int, width: int, inner: int, layers: int, embedding: int, out: int
    ) -> None:
        """Make `tokens` tokens of width `out` from an embedding of width `embedding`."""
        super().__init__()
        self.embedding_width = embedding
        self.out = out
        self.latents = nn.Parameter(torch.empty(1, tokens, width))
        self.proj_in = nn.Linear(embedding, width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (PerceiverAttention(width, inner), FeedForward(width, FEED_FORWARD_FACTOR * width))
            )
            for _ in range(layers)
        )
        self.proj_out = nn.Linear(width, out)
        self.norm_out = nn.LayerNorm(out)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return identity tokens [B, 16, D] of an embedding [B, 512]."""
        source = self.proj_in(embedding[:, None])
        latents = self.latents.expand(embedding.shape[0], -1, -1)
        for attention, feed_forward in self.layers:  # pyright: ignore[reportGeneralTypeIssues]
            latents = latents + attention(source, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))


def build_resampler(tensors: Mapping[str, torch.Tensor], path: Path) -> Resampler:
    """Return the resampler the tensors describe, holding them.

    Args:
        tensors: Released names, any floating type.
        path: Where they came from, for messages.

    Raises:
        RowError: WEIGHTS, if a tensor is missing, unknown or misshapen.
    """
    _, tokens, width = require_shape(tensors, "latents", path, axes=3)
    inner = require_shape(tensors, "layers.0.0.to_q.weight", path, axes=2)[0]
    if inner % HEAD_WIDTH:
        raise weights_error(
            path,
            f"does not fit its model: layers.0.0.to_q.weight has {inner} rows, "
            f"no multiple of the head width {HEAD_WIDTH}",
        )
    layers = {int(m[1]) for name in tensors if (m := re.match(r"layers\.(\d+)\.", name))}
    with torch.device("meta"):
        resampler = Resampler(
            tokens=tokens,
            width=width,
            inner=inner,
            layers=len(layers),
            embedding=require_shape(tensors, "proj_in.weight", path, axes=2)[1],
            out=require_shape(tensors, "proj_out.weight", path, axes=2)[0],
        )
    check_shapes(shapes_of(tensors), shapes_of(resampler.state_dict()), path)
    resampler.load_state_dict(dict(tensors), assign=True)
    return resampler.eval().requires_grad_(False)
