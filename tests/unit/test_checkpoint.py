"""Weight files that are missing, damaged, swapped or unsafe, and what the author is told."""

from __future__ import annotations

import json
import pickle
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lynx_engine.digest import digest_file
from lynx_engine.engine import RenderEngine
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.models.checkpoint import ensure_weights
from lynx_engine.models.tensor_files import open_pickle
from lynx_engine.variants import get_variant
from tests.support.weights import list_pickle, write_public_layout

FULL = get_variant("lynx_full")
BASE = "Wan2.1-T2V-14B-Diffusers"
TRANSFORMER = f"{BASE}/transformer"


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


@pytest.mark.parametrize(
    ("name", "changes", "fault"),
    [
        ("resampler", {"latents": torch.zeros(16, 64)}, "latents [16, 64] has 2 axes, not 3"),
        ("resampler", {"proj_out.weight": torch.tensor(1.0)}, "proj_out.weight [] has 0 axes"),
        ("resampler", {"layers.0.0.to_q.weight": torch.zeros(40, 64)}, "no multiple of the head"),
        ("ip_layers", {"0.registers": torch.zeros(96)}, "0.registers [96] has 1 axes, not 3"),
        ("ip_layers", {"0.to_k_ip.weight": torch.zeros(96)}, "0.to_k_ip.weight [96] has 1 axes"),
        ("ip_layers", {"1.registers": None}, "missing 1.registers"),
        ("ref_layers", {"2.to_v_ref.weight": torch.zeros(96, 80)}, "[96, 80] instead of [96, 96]"),
    ],
)
def test_misshapen_adapter_tensor_is_named(
    models: Path, name: str, changes: dict[str, torch.Tensor | None], fault: str
) -> None:
    path = models / "lynx_full" / f"{name}.safetensors"
    rewrite(path, **changes)
    text = load_error(models)
    assert str(path) in text
    assert fault in text


def test_reference_layers_of_another_width_are_refused_before_rendering(models: Path) -> None:
    path = models / "lynx_full" / "ref_layers.safetensors"
    narrow = {name: t[:, :80] for name, t in load_file(path).items() if t.ndim == 2}
    rewrite(path, **{name: t.contiguous() for name, t in narrow.items()})
    assert "0.to_k_ref.weight [96, 80] instead of [96, 96]" in load_error(models)


def test_resampler_for_other_embeddings_is_refused_before_rendering(models: Path) -> None:
    path = models / "lynx_full" / "resampler.safetensors"
    rewrite(path, **{"proj_in.weight": torch.zeros(64, 256)})
    text = load_error(models)
    assert "identity embeddings are 256 wide, those of" in text
    assert "recognition_arcface_ir_se50.pth 512" in text


@pytest.mark.parametrize(
    "name",
    [
        "transformer/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
    ],
)
@pytest.mark.parametrize("content", ["[]", '"someone/model"'])
def test_config_that_is_no_object_is_named_and_not_looked_up_on_the_network(
    models: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("the network was asked"))
    path = models / BASE / name
    path.write_text(content)
    text = load_error(models)
    assert str(path) in text
    assert "no JSON object" in text


@pytest.mark.parametrize(
    ("name", "changes", "fault"),
    [
        ("transformer/config.json", {"num_attention_heads": 0}, "no WanTransformer3DModel"),
        ("vae/config.json", {"dim_mult": "x"}, "no AutoencoderKLWan"),
        ("text_encoder/config.json", {"d_model": "wide"}, "no text encoder"),
        ("text_encoder/config.json", {"dense_act_fn": "none such"}, "no text encoder"),
        ("scheduler/scheduler_config.json", {"use_flow_sigmas": False}, "no flow schedule"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "no flow schedule"),
    ],
)
def test_wrong_setting_of_the_base_is_named(
    models: Path, name: str, changes: dict[str, object], fault: str
) -> None:
    path = models / BASE / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    text = load_error(models)
    assert str(path) in text
    assert fault in text


def test_schedule_without_its_shift_is_refused_and_not_rendered_with_another(models: Path) -> None:
    path = models / BASE / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    del config["flow_shift"]
    path.write_text(json.dumps(config))
    assert "no flow schedule, which has a flow_shift" in load_error(models)


@pytest.mark.parametrize("name", ["text_encoder/model", "transformer/diffusion_pytorch_model"])
def test_component_that_is_there_whole_and_in_shards_is_refused(models: Path, name: str) -> None:
    path = models / BASE / f"{name}.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    text = load_error(models)
    assert str(path) in text
    assert "delete one of the two" in text


def test_index_that_diffusers_could_not_read_is_named(models: Path) -> None:
    path = models / TRANSFORMER / "diffusion_pytorch_model.safetensors.index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({"weight_map": index["weight_map"]}))
    text = load_error(models)
    assert str(path) in text
    assert "not a safetensors index" in text


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_pickle_is_named_whatever_it_breaks(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "recogniser.pth"
    # The older, unzipped form has no checksum: torch stumbles over the damage where it lies.
    torch.save({"weight": torch.ones(3, 2)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    letters: list[str] = []
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        list_pickle(path, tmp_path)  # the reader's own care, with the digest's taken away
        try:
            open_pickle(path, models_dir=tmp_path)
        except RowError as error:
            letters.append(str(error))
    assert len(letters) > 10
    assert all(str(path) in letter for letter in letters)


def test_pickle_that_would_run_code_is_not_run(models: Path) -> None:
    path = models / FULL.face_encoder

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(models / "ran"),))

    path.write_bytes(pickle.dumps(Payload(), protocol=2))
    list_pickle(path, models)
    assert "plain tensors" in load_error(models)
    assert not (models / "ran").exists()


def test_locked_pickle_is_opened_only_when_its_digest_matches(models: Path) -> None:
    path, lock = models / FULL.face_encoder, models / "models.lock.json"
    facts = {"files": {FULL.face_encoder: {"sha256": digest_file(path)}}}
    lock.write_text(json.dumps(facts))
    assert open_pickle(path, models_dir=models).shapes
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(RowError, match=r"models\.lock\.json says .* it was not opened"):
        open_pickle(path, models_dir=models)


def test_pickle_that_the_lock_does_not_list_is_refused_with_the_way_to_list_it(
    models: Path,
) -> None:
    (models / "models.lock.json").unlink()
    text = load_error(models)
    assert "models.lock.json does not list it" in text
    assert "`lynx-engine models pull` lists it" in text
    assert "`lynx-engine models verify --record`" in text


def test_downloaded_weights_are_used_where_they_lie(models: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert ensure_weights(FULL, models_dir=models, cache_dir=cache) == models
    made = [path.name for path in cache.iterdir() if not path.name.startswith(".")]
    assert made == ["verified-weights.json"]


def test_damaged_made_weights_are_named_and_not_used(tmp_path: Path) -> None:
    spec = get_variant("tiny")
    folder = ensure_weights(spec, models_dir=tmp_path, cache_dir=tmp_path / "cache")
    path = folder / "lynx_full" / "ip_layers.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RowError, match=r"ip_layers\.safetensors is missing or not as") as caught:
        ensure_weights(spec, models_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert caught.value.code is ErrorCode.WEIGHTS
    assert f"{folder}: " in str(caught.value)
    assert "Delete the folder: it is made anew" in str(caught.value)


def test_cache_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RowError, match=r"cannot be written \(File exists\)\. LYNX_CACHE"):
        ensure_weights(get_variant("tiny"), models_dir=tmp_path, cache_dir=tmp_path / "file")
