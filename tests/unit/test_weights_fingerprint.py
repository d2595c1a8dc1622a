"""What stands for a variant's weights in a job's id, and what is refused at sight."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lynx_engine.errors import RowError
from lynx_engine.folders import ModelFolders
from lynx_engine.variants import get_variant
from lynx_engine.weights.fingerprint import encoder_fingerprint, weights_fingerprint
from lynx_engine.weights.lock import LockedFile, add_to_lock
from tests.support.weights import write_public_layout

FULL = get_variant("lynx_full")
TRANSFORMER = "Wan2.1-T2V-14B-Diffusers/transformer"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_public_layout(tmp_path)
    return tmp_path


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
    path = models / "lynx_full" / "ip_layers.safetensors"
    save_file({**load_file(path), "0.to_k_ip.bias": torch.ones(96)}, path)
    assert weights_fingerprint(FULL, models) != before


def test_fingerprint_takes_locked_digests_without_reading_the_files(models: Path) -> None:
    locked = "lynx_full/ip_layers.safetensors"
    add_to_lock(models, {locked: LockedFile("a" * 64)})
    before = weights_fingerprint(FULL, models)
    (models / locked).write_bytes(b"not read")
    assert weights_fingerprint(FULL, models) == before
    add_to_lock(models, {locked: LockedFile("b" * 64)})
    assert weights_fingerprint(FULL, models) != before


def test_made_weights_are_fingerprinted_by_their_recipe(tmp_path: Path) -> None:
    spec = replace(get_variant("tiny"), recipe="tiny-9")
    assert weights_fingerprint(spec, tmp_path / "nowhere") == "tiny-9"


def test_file_of_another_size_than_the_lock_says_is_refused_before_anything_loads(
    models: Path,
) -> None:
    name = "lynx_full/ip_layers.safetensors"
    size = (models / name).stat().st_size
    add_to_lock(models, {name: LockedFile("a" * 64, size=size + 1, source="the moon")})
    with pytest.raises(RowError, match=f"{size} bytes .* says {size + 1} bytes") as caught:
        weights_fingerprint(FULL, models)
    assert "the moon" in str(caught.value)
    assert "lynx-engine models pull lynx_full --replace" in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        {"sha256": "a" * 63},
        {"sha256": "a" * 64, "size": "7"},
        {"sha256": "a" * 64, "size": -1},
        {"sha256": "a" * 64, "size": True},
        {"sha256": "a" * 64, "revision": 7},
        {"size": 7},
    ],
)
def test_lock_with_an_impossible_entry_is_refused(models: Path, entry: object) -> None:
    (models / "models.lock.json").write_text(json.dumps({"files": {"lynx_full/x": entry}}))
    with pytest.raises(RowError, match=r"models\.lock\.json: not a lock file"):
        weights_fingerprint(FULL, models)


def test_same_files_in_a_layout_of_ones_own_have_the_same_fingerprint(
    models: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = weights_fingerprint(FULL, models)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    names = {
        "Wan2.1-T2V-14B-Diffusers": "wan/base",
        "lynx_full": "adapters",
        "arcface/recognition_arcface_ir_se50.pth": "face.pth",
    }
    for entry, own in names.items():
        (elsewhere / own).parent.mkdir(exist_ok=True)
        (models / entry).rename(elsewhere / own)
    paths = tuple((entry, elsewhere / own) for entry, own in names.items())
    assert weights_fingerprint(FULL, ModelFolders(models, paths)) == before


def test_variants_of_one_recogniser_share_its_fingerprint_which_follows_its_file_alone(
    models: Path,
) -> None:
    lite = get_variant("lynx_lite")
    assert encoder_fingerprint(FULL, models).startswith("sha256:"), "the lock lists it"
    (models / "models.lock.json").rename(models / "aside")
    before = encoder_fingerprint(FULL, models)
    assert encoder_fingerprint(lite, models) == before
    (models / "aside").rename(models / "models.lock.json")
    assert weights_fingerprint(lite, models) != weights_fingerprint(FULL, models)
    adapter = models / "lynx_full" / "ref_layers.safetensors"
    adapter.write_bytes(adapter.read_bytes() + b" ")
    (models / "models.lock.json").unlink()
    assert encoder_fingerprint(FULL, models) == before
    path = models / FULL.face_encoder
    path.write_bytes(path.read_bytes() + b" ")
    assert encoder_fingerprint(FULL, models) != before
    add_to_lock(models, {FULL.face_encoder: LockedFile("ab" * 32)})
    assert encoder_fingerprint(FULL, models) == f"sha256:{'ab' * 32}"
    tiny = encoder_fingerprint(get_variant("tiny"), models)
    assert tiny == encoder_fingerprint(get_variant("tiny_lite"), models)
    path.unlink()
    (models / "models.lock.json").unlink()
    with pytest.raises(RowError, match="cannot be read"):
        encoder_fingerprint(FULL, models)
