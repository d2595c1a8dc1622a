"""Digests at load: hashed once, remembered, and never believed of a file that changed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from lynx_engine.digest import digest_file
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.folders import ModelFolders
from lynx_engine.variants import get_variant
from lynx_engine.weights import stamps
from lynx_engine.weights.digests import check_digests
from lynx_engine.weights.lock import LockedFile, add_to_lock, locked_digests, read_lock
from lynx_engine.weights.stamps import STAMPS_NAME
from tests.support.repositories import layout
from tests.support.workspaces import COMMAND

FULL = get_variant("lynx_full")
ADAPTER = "lynx_full/ip_layers.safetensors"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Files of lynx_full, all of them in the lock, none verified yet."""
    folder = tmp_path / "models"
    entries: dict[str, LockedFile] = {}
    for name, data in layout("lynx_full").items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        entries[name] = LockedFile(digest_file(path), len(data), "the moon")
    add_to_lock(folder, entries)
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed, by the real function."""
    names: list[str] = []

    def count(path: Path) -> str:
        names.append(path.name)
        return digest_file(path)

    monkeypatch.setattr(stamps, "digest_file", count)
    return names


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def test_files_are_hashed_once_and_again_when_they_change(
    models: Path, tmp_path: Path, hashed: list[str]
) -> None:
    cache = tmp_path / "cache"
    known = check_digests(FULL, models, cache_dir=cache)
    assert known.items() <= locked_digests(models).items()
    first = len(hashed)
    assert first == len(known) > 10
    check_digests(FULL, models, cache_dir=cache)
    assert len(hashed) == first
    os.utime(models / ADAPTER)
    check_digests(FULL, models, cache_dir=cache)
    assert hashed[first:] == ["ip_layers.safetensors"]


def test_file_that_is_replaced_while_it_is_hashed_is_not_vouched_for(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_bytes((models / ADAPTER).read_bytes())
    flip(other)

    def replaced_meanwhile(path: Path) -> str:
        found = digest_file(path)
        if path.name == "ip_layers.safetensors":
            other.replace(path)
        return found

    with monkeypatch.context() as patches:
        patches.setattr(stamps, "digest_file", replaced_meanwhile)
        check_digests(FULL, models, cache_dir=tmp_path / "cache")
    with pytest.raises(RowError, match=r"ip_layers\.safetensors: has sha256"):
        check_digests(FULL, models, cache_dir=tmp_path / "cache")


def test_every_file_that_differs_is_named_with_its_source(models: Path, tmp_path: Path) -> None:
    other = "Wan2.1-T2V-14B-Diffusers/vae/diffusion_pytorch_model.safetensors"
    check_digests(FULL, models, cache_dir=tmp_path / "cache")
    flip(models / ADAPTER)
    flip(models / other)
    with pytest.raises(RowError) as caught:
        check_digests(FULL, models, cache_dir=tmp_path / "cache")
    assert caught.value.code is ErrorCode.WEIGHTS
    for name in (ADAPTER, other):
        assert f"{models / name}: has sha256" in str(caught.value)
    assert str(caught.value).count("(the moon)") == 2
    with pytest.raises(RowError, match="it was not opened"):
        check_digests(FULL, models, cache_dir=tmp_path / "cache")


def test_swapped_file_of_the_same_size_and_time_has_another_inode(
    models: Path, tmp_path: Path
) -> None:
    check_digests(FULL, models, cache_dir=tmp_path / "cache")
    path = models / ADAPTER
    before, swapped = path.stat(), path.with_suffix(".new")
    swapped.write_bytes(path.read_bytes())
    flip(swapped)
    os.utime(swapped, ns=(before.st_atime_ns, before.st_mtime_ns))
    swapped.replace(path)
    with pytest.raises(RowError, match=r"ip_layers\.safetensors: has sha256"):
        check_digests(FULL, models, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "forged"])
def test_damaged_memory_of_what_was_verified_means_hashing_anew(
    models: Path, tmp_path: Path, hashed: list[str], damage: str
) -> None:
    cache = tmp_path / "cache"
    check_digests(FULL, models, cache_dir=cache)
    first = len(hashed)
    path = cache / STAMPS_NAME
    data = path.read_bytes()
    content = json.loads(data)
    content["stamps"] = {p: s.replace(" ", "  ") for p, s in content["stamps"].items()}
    path.write_bytes(
        {
            "flipped": data.replace(b"sha", b"shb").replace(b"stamps", b"stamqs"),
            "cut": data[:-20],
            "emptied": b"",
            "forged": json.dumps(content).encode(),
        }[damage]
    )
    check_digests(FULL, models, cache_dir=cache)
    assert len(hashed) == 2 * first


def test_cache_that_cannot_be_written_is_no_fault_of_the_weights(
    models: Path, tmp_path: Path, hashed: list[str]
) -> None:
    (tmp_path / "file").touch()
    check_digests(FULL, models, cache_dir=tmp_path / "file")
    flip(models / ADAPTER)
    with pytest.raises(RowError, match="has sha256"):
        check_digests(FULL, models, cache_dir=tmp_path / "file")
    assert hashed


def test_unlisted_file_is_used_and_an_unlisted_pickle_is_not(models: Path, tmp_path: Path) -> None:
    entries = read_lock(models)
    (models / "models.lock.json").unlink()
    add_to_lock(models, {n: e for n, e in entries.items() if n != ADAPTER})
    assert ADAPTER not in check_digests(FULL, models, cache_dir=tmp_path / "cache")
    (models / "models.lock.json").unlink()
    with pytest.raises(RowError, match=r"se50\.pth: a pickle, which is opened only after"):
        check_digests(FULL, models, cache_dir=tmp_path / "cache")


def test_of_processes_that_load_at_once_one_hashes(models: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from lynx_engine.variants import get_variant\n"
        "from lynx_engine.weights import digests, stamps\n"
        "real, count = stamps.digest_file, []\n"
        "stamps.digest_file = lambda path: (count.append(path), real(path))[1]\n"
        "digests.check_digests(get_variant('lynx_full'), Path(sys.argv[1]),"
        " cache_dir=Path(sys.argv[2]))\n"
        "print(len(count))\n"
    )
    started = [
        subprocess.Popen(
            [COMMAND.parent / "python", "-c", program, models, tmp_path / "cache"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    counts = [int(process.communicate(timeout=60)[0]) for process in started]
    assert sorted(counts)[:2] == [0, 0]
    assert max(counts) > 10


def test_entries_of_ones_own_layout_are_found_by_the_layouts_names(tmp_path: Path) -> None:
    folders = ModelFolders(tmp_path / "root", (("lynx_full", tmp_path / "mine"),))
    inside = tmp_path / "mine" / "ip_layers.safetensors"
    assert folders / ADAPTER == inside
    assert folders / "lynx_full" == tmp_path / "mine"
    assert folders / "lynx_full_2/x" == tmp_path / "root" / "lynx_full_2" / "x"
    assert folders.name_of(inside) == ADAPTER
    assert folders.name_of(tmp_path / "root" / "lynx_lite" / "x") == "lynx_lite/x"
    assert folders.name_of(tmp_path / "other") == ""
    assert hash(folders) == hash(folders.resolve())
