"""Keys and values of the adapters, against their formulas in float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from lynx_engine.errors import RowError
from lynx_engine.models.adapters import build_identity_adapter, build_reference_adapter
from lynx_engine.variants.spec import IdentityAdapterSpec

PATH = Path("ip_layers.safetensors")
FULL = IdentityAdapterSpec(block_stride=1, shares_text_key_norm=True)
LITE = IdentityAdapterSpec(block_stride=2, shares_text_key_norm=False)
WIDTH, BLOCKS, TOKEN_WIDTH = 24, 3, 10


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        yield


@pytest.fixture
def transformer() -> Any:
    model: Any = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=BLOCKS,
        ffn_dim=32,
        text_dim=8,
        freq_dim=8,
    )
    for block in model.blocks:
        for attention in (block.attn1, block.attn2):
            attention.norm_k.weight.copy_(torch.rand(WIDTH) + 0.5)
    return model


def layers(kind: str, count: int, into: int, *, bias: bool) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for n in range(count):
        for part in ("k", "v"):
            tensors[f"{n}.to_{part}_{kind}.weight"] = torch.randn(WIDTH, into)
            if bias:
                tensors[f"{n}.to_{part}_{kind}.bias"] = torch.randn(WIDTH)
    return tensors


def exact(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


def rms_norm(x: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


@pytest.mark.parametrize("registers", [0, 3, None])
def test_full_appends_registers_and_norms_keys_like_the_text(
    transformer: Any, registers: int | None
) -> None:
    tensors = layers("ip", BLOCKS, WIDTH, bias=True)
    if registers is not None:
        tensors |= {f"{n}.registers": torch.randn(1, registers, WIDTH) for n in range(BLOCKS)}
    tokens = torch.randn(1, 16, WIDTH)
    adapter = build_identity_adapter(tensors, FULL, PATH, blocks=BLOCKS, width=WIDTH)
    adapted = adapter.project(tokens, transformer, scale=0.5)
    assert set(adapted) == {0, 1, 2}
    source = exact(tokens[0])
    if registers is not None:
        source = np.concatenate([source, exact(tensors["1.registers"][0])])
    key = source @ exact(tensors["1.to_k_ip.weight"]).T + exact(tensors["1.to_k_ip.bias"])
    key = rms_norm(key, 1e-6) * exact(transformer.blocks[1].attn2.norm_k.weight)
    value = source @ exact(tensors["1.to_v_ip.weight"]).T + exact(tensors["1.to_v_ip.bias"])
    np.testing.assert_allclose(exact(adapted[1].key[0]), key.reshape(-1, 2, 12), atol=1e-5)
    np.testing.assert_allclose(
        exact(adapted[1].value[0]), 0.5 * value.reshape(-1, 2, 12), atol=1e-5
    )


def test_lite_sits_in_every_second_block_and_norms_without_parameters(
    transformer: Any,
) -> None:
    tensors = layers("ip", 2, TOKEN_WIDTH, bias=False)
    tokens = torch.randn(1, 16, TOKEN_WIDTH)
    adapter = build_identity_adapter(tensors, LITE, PATH, blocks=BLOCKS, width=WIDTH)
    adapted = adapter.project(tokens, transformer, scale=1.0)
    assert set(adapted) == {0, 2}
    key = rms_norm(exact(tokens[0]) @ exact(tensors["1.to_k_ip.weight"]).T, 1e-5)
    np.testing.assert_allclose(exact(adapted[2].key[0]), key.reshape(-1, 2, 12), atol=1e-5)


def test_reference_keys_are_normed_like_self_attention(
    transformer: Any,
) -> None:
    tensors = layers("ref", BLOCKS, WIDTH, bias=True)
    features = [torch.randn(1, 9, WIDTH) for _ in range(BLOCKS)]
    adapter = build_reference_adapter(tensors, PATH, blocks=BLOCKS, width=WIDTH)
    adapted = adapter.project(features, transformer, scale=1.0)
    assert set(adapted) == {0, 1, 2}
    key = exact(features[2][0]) @ exact(tensors["2.to_k_ref.weight"]).T
    key = rms_norm(key + exact(tensors["2.to_k_ref.bias"]), 1e-6)
    key = key * exact(transformer.blocks[2].attn1.norm_k.weight)
    np.testing.assert_allclose(exact(adapted[2].key[0]), key.reshape(-1, 2, 12), atol=1e-5)


def test_scale_zero_is_no_adapter(transformer: Any) -> None:
    tensors = layers("ip", 2, TOKEN_WIDTH, bias=False)
    adapter = build_identity_adapter(tensors, LITE, PATH, blocks=BLOCKS, width=WIDTH)
    assert adapter.project(torch.randn(1, 16, TOKEN_WIDTH), transformer, scale=0.0) == {}


def test_layers_for_another_base_are_refused() -> None:
    tensors = layers("ip", 2, WIDTH, bias=True)
    with pytest.raises(RowError, match=r"ip_layers.*2 adapter layers where 3 are needed"):
        build_identity_adapter(tensors, FULL, PATH, blocks=BLOCKS, width=WIDTH)


def test_layer_that_lost_its_bias_is_refused_by_name() -> None:
    tensors = layers("ref", BLOCKS, WIDTH, bias=True)
    del tensors["1.to_v_ref.bias"]
    with pytest.raises(RowError, match=r"missing 1\.to_v_ref\.bias"):
        build_reference_adapter(tensors, PATH, blocks=BLOCKS, width=WIDTH)
