"""Weight files that are missing, damaged, swapped or unsafe, and what the author is told."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lynx_engine.digest import digest_file
from lynx_engine.engine import RenderEngine
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.models.checkpoint import ensure_weights, read_tensors
from lynx_engine.models.fingerprint import weights_fingerprint
from lynx_engine.variants import get_variant
from tests.support.weights import write_public_layout

FULL = get_variant("lynx_full")
TRANSFORMER = "Wan2.1-T2V-14B-Diffusers/transformer"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_public_layout(tmp_path)
    return tmp_path


def load_error(models: Path, variant: str = "lynx_full") -> str:
    with pytest.raises(RowError) as caught:
        RenderEngine.load(
            get_variant(variant), weights_dir=models, device="cpu", precision="float32"
        )
    assert caught.value.code is ErrorCode.WEIGHTS
    return str(caught.value)


def rewrite(path: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(path)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, path)


@pytest.mark.parametrize(
    "name",
    [
        "lynx_full/resampler.safetensors",
        "lynx_full/ip_layers.safetensors",
        "lynx_full/ref_layers.safetensors",
        "arcface/recognition_arcface_ir_se50.pth",
        "Wan2.1-T2V-14B-Diffusers/vae/diffusion_pytorch_model.safetensors",
        "Wan2.1-T2V-14B-Diffusers/tokenizer/tokenizer.json",
        "Wan2.1-T2V-14B-Diffusers/scheduler/scheduler_config.json",
        f"{TRANSFORMER}/diffusion_pytorch_model-00002-of-00010.safetensors",
        f"{TRANSFORMER}/config.json",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_missing_or_truncated_file_is_named(models: Path, name: str, damage: str) -> None:
    path = models / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    text = load_error(models)
    assert str(path) in text
    assert "Download the file again from its source" in text


def test_tensor_lost_from_a_shard_is_named_and_not_made_up(models: Path) -> None:
    shard = models / TRANSFORMER / "diffusion_pytorch_model-00004-of-00010.safetensors"
    name = next(iter(load_file(shard)))
    rewrite(shard, **{name: None})
    assert f"missing {name}" in load_error(models)


def test_renamed_and_unknown_tensors_are_named(models: Path) -> None:
    path = models / "lynx_full" / "resampler.safetensors"
    latents = load_file(path)["latents"]
    rewrite(path, queries=latents)
    assert "unknown queries" in load_error(models)


def test_resampler_of_the_other_variant_is_refused(models: Path) -> None:
    other = (models / "lynx_lite" / "resampler.safetensors").read_bytes()
    (models / "lynx_full" / "resampler.safetensors").write_bytes(other)
    assert "different variants" in load_error(models)


def test_pickle_that_would_run_code_is_not_run(models: Path) -> None:
    path = models / FULL.face_encoder

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(models / "ran"),))

    path.write_bytes(pickle.dumps(Payload(), protocol=2))
    assert "plain tensors" in load_error(models)
    assert not (models / "ran").exists()


def test_locked_pickle_is_opened_only_when_its_digest_matches(models: Path) -> None:
    path, lock = models / FULL.face_encoder, models / "models.lock.json"
    facts = {"files": {FULL.face_encoder: {"sha256": digest_file(path)}}}
    lock.write_text(json.dumps(facts))
    assert read_tensors(path, models_dir=models, dtype=torch.float32)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(RowError, match=r"models\.lock\.json says .* it was not opened"):
        read_tensors(path, models_dir=models, dtype=torch.float32)


def test_broken_lock_file_is_refused(models: Path) -> None:
    (models / "models.lock.json").write_text('["not", "a", "lock"]')
    with pytest.raises(RowError, match=r"models\.lock\.json: not a lock file"):
        weights_fingerprint(FULL, models)


def test_fingerprint_names_everything_missing_at_once_and_where_it_comes_from(
    tmp_path: Path,
) -> None:
    with pytest.raises(RowError) as caught:
        weights_fingerprint(FULL, tmp_path)
    text = str(caught.value)
    for weight in FULL.weights:
        assert f"{weight.path}: not there; it comes from {weight.source}" in text


def test_fingerprint_names_each_missing_file_of_a_folder(models: Path) -> None:
    gone = (
        "lynx_full/ref_layers.safetensors",
        f"{TRANSFORMER}/diffusion_pytorch_model-00007-of-00010.safetensors",
    )
    for name in gone:
        (models / name).unlink()
    with pytest.raises(RowError) as caught:
        weights_fingerprint(FULL, models)
    assert all(f"{name}: not there" in str(caught.value) for name in gone)
    assert "resampler" not in str(caught.value)


def test_fingerprint_follows_the_variants_own_files_and_no_others(models: Path) -> None:
    before = weights_fingerprint(FULL, models)
    (models / "lynx_lite" / "ip_layers.safetensors").write_bytes(b"other")
    (models / "lynx_full" / "notes.txt").write_text("mine")
    assert weights_fingerprint(FULL, models) == before
    rewrite(models / "lynx_full" / "ip_layers.safetensors", **{"0.to_k_ip.bias": torch.ones(96)})
    assert weights_fingerprint(FULL, models) != before


def test_fingerprint_takes_locked_digests_without_reading_the_files(models: Path) -> None:
    locked = "lynx_full/ip_layers.safetensors"
    lock = models / "models.lock.json"
    lock.write_text(json.dumps({"files": {locked: {"sha256": "a" * 64}}}))
    before = weights_fingerprint(FULL, models)
    (models / locked).write_bytes(b"not read")
    assert weights_fingerprint(FULL, models) == before
    lock.write_text(json.dumps({"files": {locked: {"sha256": "b" * 64}}}))
    assert weights_fingerprint(FULL, models) != before


def test_made_weights_are_fingerprinted_by_their_recipe(tmp_path: Path) -> None:
    spec = replace(get_variant("tiny"), recipe="tiny-9")
    assert weights_fingerprint(spec, tmp_path / "nowhere") == "tiny-9"


def test_downloaded_weights_are_used_where_they_lie(models: Path, tmp_path: Path) -> None:
    assert ensure_weights(FULL, models_dir=models, cache_dir=tmp_path / "cache") == models
    assert not (tmp_path / "cache").exists()


def test_damaged_made_weights_are_named_and_not_used(tmp_path: Path) -> None:
    spec = get_variant("tiny")
    folder = ensure_weights(spec, models_dir=tmp_path, cache_dir=tmp_path / "cache")
    path = folder / "lynx_full" / "ip_layers.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RowError, match=r"ip_layers\.safetensors: is missing or differs") as caught:
        ensure_weights(spec, models_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert caught.value.code is ErrorCode.WEIGHTS
    assert "made anew when their folder is deleted" in str(caught.value)


def test_cache_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RowError, match=r"cannot be written \(File exists\)\. LYNX_CACHE"):
        ensure_weights(get_variant("tiny"), models_dir=tmp_path, cache_dir=tmp_path / "file")
