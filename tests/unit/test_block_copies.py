"""Copies of streamed blocks: made once a machine, checked, done without where there is no room."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from lynx_engine.digest import sample_file
from lynx_engine.models import copies
from lynx_engine.models.blocks import TransformerResidence
from lynx_engine.models.copies import BlockCopies
from lynx_engine.models.wan import build_denoiser
from lynx_engine.variants import get_variant
from tests.support.weights import write_public_layout
from tests.support.workspaces import Workspace

BF16 = torch.bfloat16


class Room(NamedTuple):
    free: int


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "transformer.safetensors"
    path.write_bytes(bytes(range(256)) * 100)
    return path


def block() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(32, 16, generator=generator) for name in ("attn.weight", "ffn.weight")
    }


def test_copy_holds_the_numbers_as_they_are_cast_and_is_a_view_of_its_file(
    tmp_path: Path, original: Path
) -> None:
    made = BlockCopies(tmp_path / "cache", [original], BF16)
    found = made.open(7, block())
    assert found is not None
    for name, tensor in block().items():
        assert torch.equal(found[name], tensor.to(BF16))
    path = made.folder / "block-07.safetensors"
    maps = Path("/proc/self/maps").read_text()
    assert str(path) in maps
    assert [p.name for p in made.folder.iterdir() if p.suffix == ".safetensors"] == [path.name]


def test_copy_is_made_once_and_found_again(tmp_path: Path, original: Path) -> None:
    first = BlockCopies(tmp_path, [original], BF16)
    first.open(0, block())
    path = first.folder / "block-00.safetensors"
    before = path.stat().st_mtime_ns
    BlockCopies(tmp_path, [original], BF16).open(0, block())
    assert path.stat().st_mtime_ns == before


def test_other_weights_and_other_types_have_copies_of_their_own(
    tmp_path: Path, original: Path
) -> None:
    folders = {BlockCopies(tmp_path, [original], dtype).folder for dtype in (BF16, torch.float16)}
    original.write_bytes(b"other")
    folders.add(BlockCopies(tmp_path, [original], BF16).folder)
    assert len(folders) == 3


def test_damaged_copy_is_made_anew_and_said(
    tmp_path: Path, original: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = BlockCopies(tmp_path, [original], BF16)
    made.open(0, block())
    path = made.folder / "block-00.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    for broken in (bytes(data), data[:100], b""):
        path.unlink()
        path.write_bytes(broken)
        found = BlockCopies(tmp_path, [original], BF16).open(0, block())
        assert found is not None
        assert torch.equal(found["ffn.weight"], block()["ffn.weight"].to(BF16))
    assert sum("not as it was made" in message for message in caplog.messages) == 3


def test_full_cache_is_said_once_and_done_without(
    tmp_path: Path,
    original: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: Room(free=100 << 20))
    made = BlockCopies(tmp_path, [original], BF16)
    assert [made.open(number, block()) for number in range(3)] == [None] * 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "only 100 MiB are free" in caplog.text
    assert "LYNX_CACHE" in caplog.text
    assert not list(made.folder.glob("*.safetensors"))


def test_cache_that_cannot_be_written_is_done_without(tmp_path: Path, original: Path) -> None:
    (tmp_path / "cache").touch()
    assert BlockCopies(tmp_path / "cache", [original], BF16).open(0, block()) is None


def test_copy_that_was_interrupted_is_not_taken_for_one(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = BlockCopies(tmp_path, [original], BF16)

    def cut(_: dict[str, torch.Tensor], path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(copies, "save_file", cut)
        with pytest.raises(KeyboardInterrupt):
            made.open(0, block())
    assert [path.name for path in made.folder.iterdir()] == [".turn"]
    assert made.open(0, block()) is not None


def test_draft_of_a_killed_process_goes_when_the_next_copy_is_made(
    tmp_path: Path, original: Path
) -> None:
    made = BlockCopies(tmp_path, [original], BF16)
    made.folder.mkdir(parents=True)
    (made.folder / ".block-05.safetensors.4711").write_bytes(b"half of a block")
    made.open(0, block())
    assert sorted(p.name for p in made.folder.iterdir()) == [".turn", "block-00.safetensors"]


def test_clean_removes_copies_when_it_is_asked_to(tmp_path: Path, original: Path) -> None:
    workspace = Workspace(tmp_path, {"LYNX_CACHE": str(tmp_path / "cache")})
    workspace.write("lynx.toml", "")
    made = BlockCopies(tmp_path / "cache", [original], BF16)
    made.open(0, block())
    assert workspace.json("clean")["removed"] == []
    removed = workspace.json("clean", "--copies")["removed"]
    assert [Path(entry["path"]) for entry in removed] == [made.folder]
    assert not made.folder.exists()


def test_file_fetched_over_a_damaged_one_has_copies_of_its_own(
    tmp_path: Path, original: Path
) -> None:
    original.write_bytes(bytes(2_000_000))
    before = BlockCopies(tmp_path, [original], BF16).folder
    # Between two of the samples that stand for a file.
    right = tmp_path / "right"
    right.write_bytes(bytes(10_000) + b"\1" + bytes(1_989_999))
    right.replace(original)
    assert sample_file(original) == sample_file_of_zeros(tmp_path)
    assert BlockCopies(tmp_path, [original], BF16).folder != before


def sample_file_of_zeros(folder: Path) -> str:
    (folder / "zeros").write_bytes(bytes(2_000_000))
    return sample_file(folder / "zeros")


def _open_one(cache: Path, original: Path) -> int:
    torch.set_num_threads(1)
    made = BlockCopies(cache, [original], BF16)
    assert made.open(0, block()) is not None
    return (made.folder / "block-00.safetensors").stat().st_ino


def test_workers_that_start_together_make_a_copy_once(tmp_path: Path, original: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        made = pool.starmap(_open_one, [(tmp_path, original)] * 4)
    assert len(set(made)) == 1


@pytest.mark.parametrize(("dtype", "made"), [(BF16, 2), (torch.float32, 0)])
def test_only_streamed_blocks_of_another_type_are_copied(
    tmp_path: Path, dtype: torch.dtype, made: int
) -> None:
    models, cache = tmp_path / "models", tmp_path / "cache"
    write_public_layout(models)
    spec = get_variant("wan")
    denoiser, source = build_denoiser(models / spec.base, spec)
    residence = TransformerResidence(
        denoiser.transformer, source, device=torch.device("cpu"), dtype=dtype, cache_dir=cache
    )
    residence.place(0)
    assert not cache.exists()
    residence.place(2)
    found = sorted(cache.rglob("*.safetensors"))
    assert [path.name for path in found] == ["block-01.safetensors", "block-02.safetensors"][:made]
    stored: dict[str, Any] = load_file(found[0]) if found else {}
    assert {tensor.ndim for tensor in stored.values()} <= {2}
    # Blocks that leave for the decode come back from copies too.
    residence.leave()
    residence.place(2, leaves=True)
    assert len(list(cache.rglob("*.safetensors"))) == (3 if made else 0)
    shutil.rmtree(cache, ignore_errors=True)
