"""The resampler, against a second implementation in float64 numpy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lynx_engine.errors import RowError
from lynx_engine.models.resampler import Resampler, build_resampler

PATH = Path("resampler.safetensors")


def make_tensors(*, width: int = 24, heads: int = 2, layers: int = 3, out: int = 40) -> Any:
    generator = torch.Generator().manual_seed(0)
    model = Resampler(
        tokens=5, width=width, inner=64 * heads, layers=layers, embedding=512, out=out
    )
    return {
        name: torch.randn(value.shape, generator=generator) * 0.3
        for name, value in model.state_dict().items()
    }


def plain_resampler(t: dict[str, np.ndarray], embedding: np.ndarray) -> np.ndarray:
    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * t[f"{name}.weight"] + t[f"{name}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    source = (t["proj_in.weight"] @ embedding + t["proj_in.bias"])[None]
    latents = t["latents"][0]
    layers = 1 + max(int(name.split(".")[1]) for name in t if name.startswith("layers."))
    for n in range(layers):
        a, b = norm(source, f"layers.{n}.0.norm1"), norm(latents, f"layers.{n}.0.norm2")
        q = b @ t[f"layers.{n}.0.to_q.weight"].T
        k, v = np.split(np.concatenate([a, b]) @ t[f"layers.{n}.0.to_kv.weight"].T, 2, axis=1)
        seen: list[np.ndarray] = []
        for head in range(q.shape[1] // 64):
            part = slice(64 * head, 64 * head + 64)
            scores = np.exp(q[:, part] @ k[:, part].T / 8)
            seen.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
        latents = latents + np.concatenate(seen, 1) @ t[f"layers.{n}.0.to_out.weight"].T
        hidden = gelu(norm(latents, f"layers.{n}.1.0") @ t[f"layers.{n}.1.1.weight"].T)
        latents = latents + hidden @ t[f"layers.{n}.1.3.weight"].T
    return norm(latents @ t["proj_out.weight"].T + t["proj_out.bias"], "norm_out")


@pytest.mark.parametrize(("heads", "layers"), [(1, 4), (2, 3)])
def test_tokens_agree_with_a_plain_restatement(heads: int, layers: int) -> None:
    tensors = make_tensors(heads=heads, layers=layers)
    embedding = np.random.default_rng(0).normal(size=512) / 22.6
    tokens = build_resampler(tensors, PATH)(torch.from_numpy(embedding).float()[None])
    exact = {name: value.double().numpy() for name, value in tensors.items()}
    np.testing.assert_allclose(tokens[0].numpy(), plain_resampler(exact, embedding), atol=2e-5)


def test_zero_embedding_gives_tokens_that_are_not_zero() -> None:
    tokens = build_resampler(make_tensors(), PATH)(torch.zeros(1, 512))
    assert tokens.shape == (1, 5, 40)
    assert float(tokens.abs().min(dim=-1).values.max()) > 0


@pytest.mark.parametrize(
    ("name", "fault"),
    [("latents", "missing latents"), ("layers.1.0.to_q.weight", "missing layers.1.0.to_q.weight")],
)
def test_missing_tensor_is_named_with_its_file(name: str, fault: str) -> None:
    tensors = make_tensors()
    del tensors[name]
    with pytest.raises(RowError, match=f"resampler.safetensors: .*{fault}"):
        build_resampler(tensors, PATH)


def test_unknown_and_misshapen_tensors_are_named() -> None:
    tensors = make_tensors() | {"extra.weight": torch.zeros(3)}
    tensors["proj_out.bias"] = torch.zeros(7)
    with pytest.raises(RowError) as caught:
        build_resampler(tensors, PATH)
    assert "unknown extra.weight" in str(caught.value)
    assert "proj_out.bias [7] instead of [40]" in str(caught.value)
