"""A plain restatement of the released method: the numeric oracle, and what P4 is measured against.

Written from the facts of arXiv 2509.15496 and of bytedance/lynx at 3a6a91a, straight down: every
branch is a full pass of its own, adapters' keys and values are projected in every step, and RoPE
turns complex numbers in float64, as the release does. It shares nothing with `lynx_engine.models`
but the tensors, and nothing with diffusers but their names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Adapters:
    """What a Lynx variant adds, by the released names of its tensors.

    Attributes:
        identity: `ip_layers.safetensors`.
        reference: `ref_layers.safetensors`; None for lite.
        stride: 1 where every block has an identity layer, 2 where every second has.
        shares_text_key_norm: Identity keys pass the block's own `norm_k` (full); else a norm
            without parameters (lite).
    """

    identity: Tensors
    reference: Tensors | None
    stride: int
    shares_text_key_norm: bool


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """What one branch sees.

    Attributes:
        text: Text tokens [1, 512, D_text].
        tokens: Identity tokens [1, 16, D_in].
        features: Reference features, one a block, [1, L, D]; () for lite.
        scale_identity: Factor on the identity attention.
        scale_reference: Factor on the reference attention.
    """

    text: torch.Tensor
    tokens: torch.Tensor
    features: Sequence[torch.Tensor] = ()
    scale_identity: float = 1.0
    scale_reference: float = 1.0


class Restatement:
    """The base model with its adapters, one pass at a time."""

    def __init__(self, base: Tensors, heads: int, adapters: Adapters | None) -> None:
        """Hold the tensors of a Wan transformer in diffusers' names; norms may be float32."""
        self._base = base
        self._heads = heads
        self._adapters = adapters
        self._blocks = len({name.split(".")[1] for name in base if name.startswith("blocks.")})
        self._dtype = base["proj_out.weight"].dtype

    def velocity(
        self, latents: torch.Tensor, timestep: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        """Return the velocity of one branch, float32, [1, 16, T, h, w]."""
        _, _, frames, height, width = latents.shape
        x = F.conv3d(
            latents.to(self._dtype),
            self._base["patch_embedding.weight"],
            self._base["patch_embedding.bias"],
            stride=(1, 2, 2),
        )
        grid = (frames, height // 2, width // 2)
        x = x.flatten(2).transpose(1, 2)
        time = self._time(timestep)
        modulation = self._linear("condition_embedder.time_proj", F.silu(time))
        text = self._linear("condition_embedder.text_embedder.linear_1", condition.text)
        text = F.gelu(text, approximate="tanh")
        text = self._linear("condition_embedder.text_embedder.linear_2", text)
        turns = _turns(grid, x.shape[2] // self._heads, x.device)
        for number in range(self._blocks):
            x = self._block(
                number,
                x,
                text=text,
                modulation=modulation.view(1, 6, -1),
                turns=turns,
                condition=condition,
            )
        shift, scale = (self._base["scale_shift_table"] + time[:, None]).chunk(2, dim=1)
        x = (_layer_norm(x) * (1 + scale) + shift).to(self._dtype)
        x = self._linear("proj_out", x)
        # Each token is one patch of 1 x 2 x 2 cells: [T, h / 2, w / 2, 1, 2, 2, C].
        x = x.view(*grid, 2, 2, -1).permute(5, 0, 1, 3, 2, 4)
        return x.reshape(1, -1, frames, height, width).float()

    def _block(
        self,
        number: int,
        x: torch.Tensor,
        *,
        text: torch.Tensor,
        modulation: torch.Tensor,
        turns: torch.Tensor,
        condition: Condition,
    ) -> torch.Tensor:
        prefix = f"blocks.{number}"
        table = self._base[f"{prefix}.scale_shift_table"]
        shift, scale, gate, shift_2, scale_2, gate_2 = (table + modulation.float()).chunk(6, dim=1)
        seen = (_layer_norm(x) * (1 + scale) + shift).to(x.dtype)
        seen = self._self_attention(number, seen, turns, condition)
        x = (x.float() + seen * gate).to(x.dtype)
        norm = (self._base[f"{prefix}.norm2.weight"], self._base[f"{prefix}.norm2.bias"])
        query = _layer_norm(x, *norm).to(x.dtype)
        x = x + self._cross_attention(number, query, text, condition)
        inner = (_layer_norm(x) * (1 + scale_2) + shift_2).to(x.dtype)
        inner = F.gelu(self._linear(f"{prefix}.ffn.net.0.proj", inner), approximate="tanh")
        inner = self._linear(f"{prefix}.ffn.net.2", inner)
        return (x.float() + inner.float() * gate_2).to(x.dtype)

    def _self_attention(
        self, number: int, x: torch.Tensor, turns: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        name = f"blocks.{number}.attn1"
        query, key, value = self._qkv(name, x, x)
        seen = _attend(_turn(query, turns), _turn(key, turns), value)
        layers = self._adapters.reference if self._adapters else None
        if layers is not None and condition.scale_reference != 0:
            feature = condition.features[number]
            key = _project(layers, f"{number}.to_k_ref", feature)
            key = _rms_norm(key, self._base[f"{name}.norm_k.weight"])
            value = _project(layers, f"{number}.to_v_ref", feature)
            added = _attend(query, self._by_head(key), self._by_head(value))
            seen = seen + condition.scale_reference * added
        return self._linear(f"{name}.to_out.0", seen.flatten(2))

    def _cross_attention(
        self, number: int, x: torch.Tensor, text: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        name = f"blocks.{number}.attn2"
        query, key, value = self._qkv(name, x, text)
        seen = _attend(query, key, value)
        adapters = self._adapters
        if adapters is not None and number % adapters.stride == 0 and condition.scale_identity != 0:
            layer, tokens = number // adapters.stride, condition.tokens
            if f"{layer}.registers" in adapters.identity:
                tokens = torch.cat((tokens, adapters.identity[f"{layer}.registers"]), dim=1)
            key = _project(adapters.identity, f"{layer}.to_k_ip", tokens)
            if adapters.shares_text_key_norm:
                key = _rms_norm(key, self._base[f"{name}.norm_k.weight"])
            else:
                exact = key.float()
                key = (exact / (exact.square().mean(-1, keepdim=True) + 1e-5).sqrt()).to(key.dtype)
            value = _project(adapters.identity, f"{layer}.to_v_ip", tokens)
            added = _attend(query, self._by_head(key), self._by_head(value))
            seen = seen + condition.scale_identity * added
        return self._linear(f"{name}.to_out.0", seen.flatten(2))

    def _qkv(
        self, name: str, x: torch.Tensor, source: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        query = _rms_norm(self._linear(f"{name}.to_q", x), self._base[f"{name}.norm_q.weight"])
        key = _rms_norm(self._linear(f"{name}.to_k", source), self._base[f"{name}.norm_k.weight"])
        value = self._linear(f"{name}.to_v", source)
        return self._by_head(query), self._by_head(key), self._by_head(value)

    def _time(self, timestep: torch.Tensor) -> torch.Tensor:
        name = "condition_embedder.time_embedder"
        first = self._base[f"{name}.linear_1.weight"]
        half = first.shape[1] // 2
        steps = torch.arange(half, dtype=torch.float32, device=timestep.device)
        angle = timestep.float()[:, None] * torch.exp(-math.log(10000) / half * steps)
        waves = torch.cat((angle.cos(), angle.sin()), dim=1).to(first.dtype)
        hidden = F.silu(self._linear(f"{name}.linear_1", waves))
        return self._linear(f"{name}.linear_2", hidden).to(self._dtype)

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return _project(self._base, name, x)

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (self._heads, -1))


def guide_full(
    v_u: torch.Tensor, v_id: torch.Tensor, v_full: torch.Tensor, *, text: float, identity: float
) -> torch.Tensor:
    """Return the velocity of Lynx full's three branches."""
    return v_u + identity * (v_id - v_u) + text * (v_full - v_id)


def _project(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def _layer_norm(x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x.float(), x.shape[-1:], *affine, eps=1e-6)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, eps=1e-6)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return softmax attention of [1, L, N, d] tensors."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _turns(grid: tuple[int, int, int], head_width: int, device: torch.device) -> torch.Tensor:
    """Return the turn of each token and channel pair, complex128 [1, L, 1, d / 2].

    A third of the pairs turns with the row, a third with the column, what is left with time; a
    pair's speed falls from 1 to nearly 1 / 10000 within its group.
    """
    side = 2 * (head_width // 6)
    speeds = [
        10000.0 ** -(torch.arange(0, size, 2, dtype=torch.float64, device=device) / size)
        for size in (head_width - 2 * side, side, side)
    ]
    places = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64, device=device) for n in grid), indexing="ij"
    )
    angles = [place.reshape(-1, 1) * speed for place, speed in zip(places, speeds, strict=True)]
    angle = torch.cat(angles, dim=1)[None, :, None]
    return torch.polar(torch.ones_like(angle), angle)


def _turn(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
