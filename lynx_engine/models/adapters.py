"""The identity and reference adapters: a subject's tokens and features become keys and values.

Source: arXiv 2509.15496; tensor names of bytedance/lynx at 3a6a91a. The keys and values depend on
the subject and never on the step, so each is projected once a job. The weights are views of their
mapped files, which all processes of a machine share; a layer visits the device, and is cast, while
it projects (in Lynx full they are a third of all weights).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformer3DModel

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.models.attention import KeyValue
from lynx_engine.models.checkpoint import check_shapes, require_shape, shapes_of

if TYPE_CHECKING:
    from lynx_engine.variants.spec import IdentityAdapterSpec

LITE_KEY_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear map D_in -> D; weight [D, D_in], bias [D] or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Project x [B, L, D_in] on the device and in the type of x, which the weights visit."""
        bias = None if self.bias is None else self.bias.to(x.device, x.dtype)
        return F.linear(x, self.weight.to(x.device, x.dtype), bias)


@dataclass(frozen=True, slots=True)
class AdapterLayer:
    """One block's key and value projections, and its learned extra tokens [1, R, D_in] or None."""

    key: Projection
    value: Projection
    registers: torch.Tensor | None


class IdentityAdapter:
    """Projects identity tokens for the cross-attention of some blocks."""

    def __init__(self, layers: Sequence[AdapterLayer], spec: IdentityAdapterSpec) -> None:
        """Hold `layers`, placed and normed as `spec` says."""
        self._layers = layers
        self._spec = spec

    @property
    def token_width(self) -> int:
        """D_in: width of the identity tokens it reads."""
        return self._layers[0].key.weight.shape[1]

    def project(
        self, tokens: torch.Tensor, transformer: WanTransformer3DModel, *, scale: float
    ) -> dict[int, KeyValue]:
        """Return block -> keys and values.

        k = norm(W_k [tokens; registers]), v = scale W_v [tokens; registers]

        Args:
            tokens: Identity tokens [1, 16, D_in], on the device and in the type of the pass.
            transformer: The base, whose blocks lend heads and, in Lynx full, key norms.
            scale: Identity scale; 0 gives {}, no adapter at all.
        """
        if scale == 0:
            return {}
        adapted: dict[int, KeyValue] = {}
        for number, layer in enumerate(self._layers):
            block = number * self._spec.block_stride
            attention: WanAttention = transformer.blocks[block].attn2  # pyright: ignore
            source = tokens
            if layer.registers is not None:
                source = torch.cat((tokens, layer.registers.to(tokens)), dim=1)
            norm = attention.norm_k if self._spec.shares_text_key_norm else _plain_rms_norm
            key = norm(layer.key(source))
            adapted[block] = _by_head(key, scale * layer.value(source), attention.heads)
        return adapted


class ReferenceAdapter:
    """Projects reference features for the self-attention of every block."""

    def __init__(self, layers: Sequence[AdapterLayer]) -> None:
        """Hold `layers`, one a block."""
        self._layers = layers

    def project(
        self,
        features: Sequence[torch.Tensor],
        transformer: WanTransformer3DModel,
        *,
        scale: float,
    ) -> dict[int, KeyValue]:
        """Return block -> keys and values.

        k = norm_k(W_k feature), v = scale W_v feature

        Args:
            features: One a block, [1, L, D], on the device and in the type of the pass.
            transformer: The base, whose blocks lend heads and key norms.
            scale: Reference scale; 0 gives {}, no adapter at all.
        """
        if scale == 0:
            return {}
        adapted: dict[int, KeyValue] = {}
        for block, (layer, feature) in enumerate(zip(self._layers, features, strict=True)):
            attention: WanAttention = transformer.blocks[block].attn1  # pyright: ignore
            key = attention.norm_k(layer.key(feature))
            adapted[block] = _by_head(key, scale * layer.value(feature), attention.heads)
        return adapted


def build_identity_adapter(
    tensors: Mapping[str, torch.Tensor],
    spec: IdentityAdapterSpec,
    path: Path,
    *,
    blocks: int,
    width: int,
) -> IdentityAdapter:
    """Return the identity adapter the tensors describe.

    Args:
        tensors: `ip_layers.safetensors`, of any floating type.
        spec: Where the layers sit and how their keys are normed.
        path: Where the tensors came from, for messages.
        blocks: Blocks of the base model.
        width: D of the base model.

    Raises:
        RowError: WEIGHTS, if layers do not match the base or a tensor does not fit.
    """
    layers = _read_layers(
        tensors,
        "ip",
        path,
        count=-(-blocks // spec.block_stride),
        width=width,
        source_width=require_shape(tensors, "0.to_k_ip.weight", path, axes=2)[1],
    )
    return IdentityAdapter(layers, spec)


def build_reference_adapter(
    tensors: Mapping[str, torch.Tensor], path: Path, *, blocks: int, width: int
) -> ReferenceAdapter:
    """Return the reference adapter the tensors of `ref_layers.safetensors` describe.

    Raises:
        RowError: WEIGHTS, if layers do not match the base or a tensor does not fit.
    """
    return ReferenceAdapter(
        _read_layers(tensors, "ref", path, count=blocks, width=width, source_width=width)
    )


def _read_layers(
    tensors: Mapping[str, torch.Tensor],
    kind: str,
    path: Path,
    *,
    count: int,
    width: int,
    source_width: int,
) -> list[AdapterLayer]:
    numbers = {int(m[1]) for name in tensors if (m := re.match(r"(\d+)\.", name))}
    if numbers != set(range(count)):
        raise RowError(
            ErrorCode.WEIGHTS,
            f"{path}: does not fit its base model: {len(numbers)} adapter layers "
            f"where {count} are needed, numbered 0 to {count - 1}. "
            "Check that it belongs to this variant and this base.",
        )
    # Either every layer has it or none: a layer that lost its bias is damage, not a variant.
    biased = any(name.endswith(".bias") for name in tensors)
    with_registers = kind == "ip" and any(name.endswith(".registers") for name in tensors)
    expected: dict[str, tuple[int, ...]] = {}
    for n in range(count):
        for part in ("k", "v"):
            expected[f"{n}.to_{part}_{kind}.weight"] = (width, source_width)
            if biased:
                expected[f"{n}.to_{part}_{kind}.bias"] = (width,)
        if with_registers:
            extra = require_shape(tensors, f"{n}.registers", path, axes=3)[1]
            expected[f"{n}.registers"] = (1, extra, source_width)
    check_shapes(shapes_of(tensors), expected, path)

    def projection(layer: int, part: str) -> Projection:
        name = f"{layer}.to_{part}_{kind}"
        return Projection(tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    return [
        AdapterLayer(projection(n, "k"), projection(n, "v"), tensors.get(f"{n}.registers"))
        for n in range(count)
    ]


def _plain_rms_norm(key: torch.Tensor) -> torch.Tensor:
    """Return k / sqrt(mean(k^2) + eps) over the whole width, computed in float32."""
    exact = key.float()
    return (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + LITE_KEY_EPS)).type_as(key)


def _by_head(key: torch.Tensor, value: torch.Tensor, heads: int) -> KeyValue:
    return KeyValue(key.unflatten(2, (heads, -1)), value.unflatten(2, (heads, -1)))
