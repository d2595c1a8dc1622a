"""Our loader against diffusers' and transformers' own: the same bits, and nothing else moved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import UMT5EncoderModel

from lynx_engine.errors import RowError
from lynx_engine.models.blocks import TransformerResidence
from lynx_engine.models.components import build_component
from lynx_engine.models.residence import Residence
from lynx_engine.models.text import load_text_encoder
from lynx_engine.models.vae import DECODE_PRECISIONS, load_vae, psnr_db
from tests.support.weights import write_public_layout

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    write_public_layout(models)
    return models / "Wan2.1-T2V-14B-Diffusers"


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for kind in ("named_parameters", "named_buffers"):
        mine, other = dict(getattr(ours, kind)()), dict(getattr(theirs, kind)())
        assert mine.keys() == other.keys()
        for name, tensor in other.items():
            assert mine[name].dtype is tensor.dtype, name
            assert torch.equal(mine[name], tensor), name
    assert not ours.training
    assert not any(parameter.requires_grad for parameter in ours.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
def test_transformer_comes_off_the_disk_as_diffusers_loads_it(
    base: Path, dtype: torch.dtype
) -> None:
    ours, source = build_component(WanTransformer3DModel, base / "transformer")
    TransformerResidence(ours, source, device=CPU, dtype=dtype, cache_dir=None).place(0)
    theirs = WanTransformer3DModel.from_pretrained(base / "transformer", torch_dtype=dtype)
    assert_same(ours, theirs)


def test_autoencoder_comes_off_the_disk_as_diffusers_loads_it(base: Path) -> None:
    ours: Any = load_vae(base, device=CPU)
    ours.residence.stay()
    assert_same(ours._vae, AutoencoderKLWan.from_pretrained(base / "vae"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_text_passed_block_by_block_is_what_transformers_makes_of_it_whole(
    base: Path, dtype: torch.dtype
) -> None:
    ours: Any = load_text_encoder(base, device=CPU, dtype=dtype)
    theirs = UMT5EncoderModel.from_pretrained(base / "text_encoder", dtype=dtype)
    for prompt, found in zip(("A person.", "B"), ours.encode(("A person.", "B")), strict=True):
        ids = torch.tensor([ours._tokenizer.encode(prompt).ids])
        with torch.inference_mode():
            expected = theirs(ids).last_hidden_state
        assert found.dtype is expected.dtype
        assert torch.equal(found, expected)
    residence = ours._residence
    residence.stay()
    mine = dict(ours._encoder.named_parameters())
    for name, tensor in theirs.named_parameters():
        assert mine[name].dtype is tensor.dtype
        assert torch.equal(mine[name], tensor)


def test_building_moves_no_number_of_torchs_generator(base: Path) -> None:
    before = torch.random.get_rng_state()
    build_component(WanTransformer3DModel, base / "transformer")
    load_text_encoder(base, device=CPU, dtype=torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_network_that_waits_has_no_numbers_and_fails_where_they_are_used(base: Path) -> None:
    vae, source = build_component(AutoencoderKLWan, base / "vae")
    residence = Residence(vae, source, device=CPU, dtypes=lambda _: torch.float32)
    assert all(parameter.is_meta for parameter in vae.parameters())
    with residence.visiting():
        assert not any(parameter.is_meta for parameter in vae.parameters())
    assert all(parameter.is_meta for parameter in vae.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        vae.decode(torch.zeros(1, 16, 1, 4, 4))


def test_network_that_did_not_fit_leaves_as_it_came(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, source = build_component(AutoencoderKLWan, base / "vae")
    residence = Residence(vae, source, device=CPU, dtypes=lambda _: torch.float32)
    place, placed = Residence._place, list[str]()

    def full(self: Residence, name: str, numbers: torch.Tensor) -> torch.Tensor:
        placed.append(name)
        if len(placed) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return place(self, name, numbers)

    monkeypatch.setattr(Residence, "_place", full)
    with pytest.raises(torch.OutOfMemoryError), residence.visiting():
        pytest.fail("the network is not on the device")
    assert all(parameter.is_meta for parameter in vae.parameters())


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_weights_that_are_replaced_by_others_alike_are_refused_not_taken_for_the_first(
    base: Path, tmp_path: Path, part: str
) -> None:
    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    build = {"transformer": WanTransformer3DModel, "vae": AutoencoderKLWan}[part]
    network, source = build_component(build, copy / part)
    path = max(source.files.values())
    residence = Residence(network, source, device=CPU, dtypes=lambda _: torch.float32)
    other = {name: tensor + 1 for name, tensor in load_file(path).items()}
    save_file(other, tmp_path / "other")
    (tmp_path / "other").replace(path)
    with pytest.raises(RowError, match=f"{path.name}: changed while it was in use"):
        residence.stay()


def test_files_of_a_network_on_the_device_may_be_replaced(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vae"
    folder.mkdir()
    for path in (base / "vae").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    vae: Any = load_vae(tmp_path, device=CPU)
    vae.residence.stay()
    weights = folder / "diffusion_pytorch_model.safetensors"
    kept = {name: tensor.clone() for name, tensor in vae._vae.named_parameters()}
    # In place, as a copy over it does: a view of the file would change or end the process.
    weights.write_bytes(b"\0" * weights.stat().st_size)
    assert all(torch.equal(t, kept[name]) for name, t in vae._vae.named_parameters())


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn((1, 16, 5, 6, 8), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_decode_takes_the_fastest_precision_that_is_near_enough(
    base: Path, latents: torch.Tensor
) -> None:
    vae = load_vae(base, device=CPU)
    vae.residence.stay()
    few = latents[:, :, :3]
    exact = vae.decode(few)
    near_db = psnr_db(vae.decode(few, precision="bfloat16"), exact)
    assert 30 < near_db < 90  # of bfloat16's eight bits, and no copy of float32
    assert vae.fastest_precision(latents, floor_db=near_db - 1) == "bfloat16"
    # A CPU has no TF32: that is float32 there, and exactly as near as can be.
    assert vae.fastest_precision(latents, floor_db=near_db + 1) == "tf32"


@torch.inference_mode()
def test_decode_falls_back_to_float32_where_nothing_else_is_near_enough(
    base: Path, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = load_vae(base, device=CPU)
    decode, tried = vae.decode, list[str]()

    def rounded(few: torch.Tensor, *, tiled: bool = False, precision: str = "float32") -> Any:
        tried.append(precision)
        pixels = decode(few, tiled=tiled, precision=precision)
        return pixels.round(decimals=1) if precision == "tf32" else pixels

    monkeypatch.setattr(vae, "decode", rounded)
    assert vae.fastest_precision(latents, floor_db=200) == "float32"
    assert tried == ["float32", *DECODE_PRECISIONS[:-1]]


@torch.inference_mode()
def test_decode_in_bfloat16_leaves_the_weights_and_torch_as_they_were(
    base: Path, latents: torch.Tensor
) -> None:
    vae: Any = load_vae(base, device=CPU)
    vae.residence.stay()
    before = dict(vae._vae.named_parameters())
    first = vae.decode(latents)
    vae.decode(latents, precision="bfloat16")
    assert all(tensor is before[name] for name, tensor in vae._vae.named_parameters())
    assert torch.equal(vae.decode(latents), first)
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("precision", "allowed"), [("tf32", True), ("float32", False)])
@torch.inference_mode()
def test_tf32_is_on_only_where_it_was_chosen(
    base: Path, latents: torch.Tensor, *, precision: str, allowed: bool
) -> None:
    vae: Any = load_vae(base, device=CPU)
    flags: set[tuple[object, object]] = set()
    vae._vae.decoder.register_forward_pre_hook(
        lambda *_: flags.add(
            (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
        )
    )
    vae.decode(latents, precision=precision)
    assert flags == {(allowed, allowed)}


def test_psnr_is_that_of_pixels_between_minus_one_and_one() -> None:
    exact = torch.zeros(4)
    assert psnr_db(exact, exact) == float("inf")
    assert psnr_db(exact + 0.02, exact) == pytest.approx(40, abs=0.01)
    assert psnr_db(torch.full((4,), float("nan")), exact) == float("-inf")
