"""The recogniser's structure; its numbers are compared in tests/parity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.models.arcface import build_face_encoder
from tests.support.weights import face_tensors

PATH = Path("recognition_arcface_ir_se50.pth")
CROP = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return face_tensors(stem=4)


def test_released_names_build_24_units_that_halve_four_times(
    tensors: dict[str, torch.Tensor],
) -> None:
    encoder: Any = build_face_encoder(tensors, PATH)
    assert len(encoder.body) == 24
    halving = [
        number for number, unit in enumerate(encoder.body) if unit.res_layer[3].stride == (2, 2)
    ]
    assert halving == [0, 3, 7, 21]


def test_embedding_has_512_numbers_and_length_one(tensors: dict[str, torch.Tensor]) -> None:
    embedding = build_face_encoder(tensors, PATH).embed(CROP)
    assert embedding.shape == (512,)
    assert embedding.dtype == np.float32
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-6)


def test_picture_enters_as_bgr(tensors: dict[str, torch.Tensor]) -> None:
    # Swapping red and blue in the picture is undone by swapping them in the first layer.
    swapped = dict(tensors)
    swapped["input_layer.0.weight"] = tensors["input_layer.0.weight"].flip(1)
    other = build_face_encoder(swapped, PATH).embed(CROP[..., ::-1].copy())
    ours = build_face_encoder(tensors, PATH).embed(CROP)
    np.testing.assert_allclose(other, ours, atol=1e-6)
    assert np.abs(build_face_encoder(tensors, PATH).embed(CROP[..., ::-1].copy()) - ours).max() > (
        1e-3
    )


def test_training_counters_are_not_needed(tensors: dict[str, torch.Tensor]) -> None:
    kept = {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
    full = build_face_encoder(tensors, PATH).embed(CROP)
    np.testing.assert_array_equal(build_face_encoder(kept, PATH).embed(CROP), full)


@pytest.mark.parametrize(
    "name", ["input_layer.0.weight", "body.7.res_layer.1.weight", "output_layer.4.running_var"]
)
def test_missing_tensor_is_named_with_its_file(tensors: dict[str, torch.Tensor], name: str) -> None:
    with pytest.raises(RowError, match=f"ir_se50.pth: .*missing {name}") as caught:
        build_face_encoder({k: v for k, v in tensors.items() if k != name}, PATH)
    assert caught.value.code is ErrorCode.WEIGHTS


def test_other_network_is_refused(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(RowError, match=r"unknown conv1\.weight"):
        build_face_encoder(tensors | {"conv1.weight": torch.zeros(3)}, PATH)
    with pytest.raises(RowError, match=r"missing body\.0\."):
        build_face_encoder({"conv1.weight": torch.zeros(3)}, PATH)
