"""The fetched classifier: pulled as installed from a stand-in Hub, and classifying for real.

A small vision transformer of the same kind stands in for the big one, which cannot be had here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.folders import ModelFolders
from lynx_engine.results import WithheldError
from lynx_engine.safety.check import SafetyCheck
from lynx_engine.safety.classifiers import ClassifierPlace, installed_classifiers
from lynx_engine.safety.falconsai import load_falconsai
from lynx_engine.safety.weights import FOLDER, SAFETY
from lynx_engine.settings import Settings
from tests.support.hub import serving
from tests.support.repositories import NSFW
from tests.support.studios import studio_at

# What the repository's own file says, save for the size.
PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 32, "width": 32},
}


def repository(folder: Path, labels: Mapping[int, str]) -> dict[str, bytes]:
    """Make a small transformer that is trained on nothing; return its files."""
    torch.manual_seed(7)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        id2label=dict(labels),
        label2id={word: at for at, word in labels.items()},
        # The default scales of a transformer that is to be trained answer 0.5 to everything.
        initializer_range=0.7,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace as `lynx-engine models pull safety` leaves it."""
    folder = tmp_path_factory.mktemp("pulled")
    files = repository(folder / "made", {0: "normal", 1: "nsfw"})
    studio = folder / "studio"
    studio.mkdir()
    (studio / "lynx.toml").touch()
    with serving() as hub:
        commit = hub.commit(NSFW, {**files, "pytorch_model.bin": b"a pickle", "model.py": b"code"})
        workspace = studio_at(hub, studio)
        told = workspace.json("models", "pull", "safety")
        assert told["variants"] == ["safety"]
        assert set(told["fetched"]) == set(SAFETY.files), "neither pickles nor code"
        again = workspace.json("models", "pull", "safety")
        assert (again["fetched"], set(again["kept"])) == ({}, set(SAFETY.files))
    lock = json.loads((studio / "models/models.lock.json").read_text())["files"]
    assert {entry["revision"] for entry in lock.values()} == {commit}
    workspace.json("models", "verify", "safety")
    (listed,) = (r for r in workspace.json("models", "list") if r["variant"] == "safety")
    assert (listed["weights"], listed["state"]) == (FOLDER, "complete")
    return studio


@pytest.fixture
def place(pulled: Path, tmp_path: Path) -> ClassifierPlace:
    shutil.copytree(pulled / "models", tmp_path / "models")
    return ClassifierPlace(ModelFolders(tmp_path / "models"), tmp_path / "cache", 1)


def unlisted(place: ClassifierPlace) -> Path:
    """Take the lock away, so that what is read itself must tell; return the model's folder."""
    (place.models_dir / "models.lock.json").unlink()
    return place.models_dir / FOLDER


def test_pulled_classifier_is_installed_and_gives_each_frame_the_models_own_probability(
    place: ClassifierPlace, tmp_path: Path
) -> None:
    assert installed_classifiers(Settings(workspace=tmp_path)) == ("opennsfw", "falconsai")
    dice = np.random.default_rng(3)
    frames = dice.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    scores = load_falconsai(place).scores(frames)
    # The same by hand: at the model's own size there is nothing to resize.
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 * 2 - 1
    model = ViTForImageClassification.from_pretrained(place.models_dir / FOLDER).eval()
    with torch.no_grad():
        expected = model(pixel_values=pixels).logits.softmax(-1)[:, 1].numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(scores) > 1e-3, "the stand-in tells frames apart"
    big = load_falconsai(place).scores(dice.integers(0, 256, (2, 48, 80, 3), dtype=np.uint8))
    assert big.shape == (2,)


def test_frame_over_the_floor_is_withheld_in_the_name_of_the_pinned_commit(
    place: ClassifierPlace,
) -> None:
    weights = place.models_dir / FOLDER / "model.safetensors"
    unlisted(place)
    tensors = load_file(weights)
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    for bias, flagged in ((-9.0, False), (9.0, True)):
        tensors["classifier.weight"] = torch.zeros_like(tensors["classifier.weight"])
        tensors["classifier.bias"] = torch.tensor([0.0, bias])
        save_file(tensors, weights, metadata={"format": "pt"})
        check = SafetyCheck(("falconsai",), place)
        if flagged:
            with pytest.raises(WithheldError, match=r"falconsai saw 1\.000 in frame 0"):
                check.judge(frames, lambda *_: None)
        else:
            verdict = check.judge(frames, lambda *_: None)
            assert verdict.classifiers == "falconsai (Apache-2.0) from 0.85"


def test_record_names_the_commit_that_the_lock_pins(place: ClassifierPlace) -> None:
    lock = json.loads((place.models_dir / "models.lock.json").read_text())["files"]
    commit = lock[SAFETY.files[-1]]["revision"]
    assert load_falconsai(place).name == f"falconsai {commit[:12]}"


def letter(place: ClassifierPlace) -> str:
    """Return why it cannot be loaded, which withholds every clip."""
    with pytest.raises(RowError) as caught:
        load_falconsai(place)
    assert caught.value.code is ErrorCode.WEIGHTS
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(WithheldError, match="falconsai cannot be loaded"):
        SafetyCheck(("falconsai",), place).judge(frames, lambda *_: None)
    return str(caught.value)


@pytest.mark.parametrize("name", [name.rpartition("/")[2] for name in SAFETY.files])
def test_missing_file_and_one_turned_bit_are_named_and_nothing_is_loaded(
    place: ClassifierPlace, name: str
) -> None:
    path = place.models_dir / FOLDER / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    told = letter(place)
    assert str(path) in told
    assert "it was not opened" in told
    assert "lynx-engine models pull safety --replace" in told
    path.unlink()
    told = letter(place)
    assert name in told
    assert "`lynx-engine models pull safety` fetches them" in told


def test_other_labels_other_weights_and_what_is_no_model_are_refused(
    place: ClassifierPlace,
) -> None:
    folder = unlisted(place)
    config = folder / "config.json"
    right = config.read_text()
    config.write_text(right.replace('"nsfw"', '"cat"'))
    assert "names the labels normal, cat; this classifier's are normal and nsfw" in letter(place)
    config.write_text(right.replace('"hidden_size": 16', '"hidden_size": 32'))
    assert str(folder) in letter(place)
    config.write_text("{}")
    assert "lynx-engine models pull safety --replace" in letter(place)
    config.write_text(right)
    tensors = load_file(folder / "model.safetensors")
    del tensors["classifier.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "its weights lack classifier.bias" in letter(place)
    (folder / "model.safetensors").write_bytes(b"no tensors")
    assert "lynx-engine models pull safety --replace" in letter(place)
