"""The recipe: the same numbers everywhere, published whole."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lynx_engine.errors import RowError
from lynx_engine.models import tiny_weights
from lynx_engine.models.checkpoint import ensure_weights
from lynx_engine.models.text import load_tokenizer
from lynx_engine.models.tiny_layout import JSON_FILES, TENSOR_FILES, tensor_shapes
from lynx_engine.models.tiny_weights import build_tiny_weights, make_tensor, uniform
from lynx_engine.variants import get_variant
from lynx_engine.weights.lock import LOCK_NAME


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    return ensure_weights(get_variant("tiny"), models_dir=cache / "none", cache_dir=cache)


def philox_words(key: int, count: int) -> list[int]:
    """Return the first 64-bit words of Philox4x64-10, written out from Salmon et al. 2011."""
    mask = 2**64 - 1
    words: list[int] = []
    counter = 0
    while len(words) < count:
        counter += 1  # numpy draws from counter 1
        x = [counter, 0, 0, 0]
        k = [key & mask, key >> 64]
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
            x = [(b >> 64) ^ x[1] ^ k[0], b & mask, (a >> 64) ^ x[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        words += x
    return words[:count]


def test_numbers_come_from_philox_keyed_by_the_name() -> None:
    key = int.from_bytes(hashlib.sha256(b"file:tensor").digest()[:16], "little")
    expected = [(word >> 40) * 2.0**-23 - 1 for word in philox_words(key, 10)]
    assert uniform("file:tensor", (2, 5)).ravel().tolist() == expected


def test_weights_keep_the_size_of_what_passes_through() -> None:
    weight = make_tensor("file:some.weight", (200, 300))
    assert weight.dtype == np.float32
    assert weight.std() * 300**0.5 == pytest.approx(1, rel=0.02)


def test_norms_start_as_they_should() -> None:
    assert (make_tensor("file:block.norm3.weight", (8,)) == 1).all()
    assert (make_tensor("file:block.norm3.bias", (8,)) == 0).all()
    assert (make_tensor("arcface:res_layer.0.running_var", (8,)) == 1).all()


def test_every_file_of_the_layout_is_there_and_the_whole_is_small(built: Path) -> None:
    files = {p.relative_to(built).as_posix() for p in built.rglob("*") if p.is_file()}
    assert files == {*TENSOR_FILES, *JSON_FILES, LOCK_NAME}
    assert sum((built / name).stat().st_size for name in files) < 10e6


def test_files_hold_the_recipes_tensors(built: Path) -> None:
    for path in TENSOR_FILES:
        shapes = {name: value.shape for name, value in load_file(built / path).items()}
        assert shapes == tensor_shapes(path)


def test_second_variant_shares_the_folder_and_builds_nothing(built: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in built.rglob("*")}
    lite = get_variant("tiny_lite")
    assert ensure_weights(lite, models_dir=built, cache_dir=built.parent) == built
    assert {p: p.stat().st_mtime_ns for p in built.rglob("*")} == before


def test_two_processes_building_at_once_both_succeed(tmp_path: Path) -> None:
    target = tmp_path / "tiny-1"
    program = (
        "from pathlib import Path; from lynx_engine.models.tiny_weights import build_tiny_weights;"
        f"build_tiny_weights(Path({str(target)!r}))"
    )
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-1"]
    assert (target / "base" / "model_index.json").is_file()


def test_other_numbers_are_refused_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_weights, "GAINS", ((r"bias$", 0.06), *tiny_weights.GAINS))
    with pytest.raises(RowError, match=r"constraints\.txt"):
        build_tiny_weights(tmp_path / "tiny-1")
    assert list(tmp_path.iterdir()) == []


def test_chinese_and_emoji_prompts_differ(built: Path) -> None:
    tokenizer = load_tokenizer(built / "base")
    prompts = ("一个人在海滩上跑步", "一个人在公园里跑步", "🎃", "👻", "A pumpkin.", "A ghost.")
    ids = [tuple(tokenizer.encode(prompt).ids) for prompt in prompts]
    assert len(set(ids)) == len(prompts)
    assert all(2 not in row for row in ids), "an unknown token stands for everything unknown"
    assert all(row[-1] == 1 for row in ids)


def test_default_negative_prompt_fits_in_512_tokens(built: Path) -> None:
    tokenizer = load_tokenizer(built / "base")
    assert len(tokenizer.encode(get_variant("lynx_full").defaults.negative_prompt).ids) < 512
    assert len(tokenizer.encode("word " * 900).ids) == 512
