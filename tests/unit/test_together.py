"""What changes speed and memory, taken together: one does not undo or spoil another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lynx_engine.engine import RenderEngine
from lynx_engine.jobs import RenderJob
from lynx_engine.models.checkpoint import ensure_weights
from lynx_engine.rendering import Rendering
from lynx_engine.variants import get_variant
from tests.support.loras import LAYERS, factors, lora_of, write_lora
from tests.support.renders import ASTRONAUT_LANDMARKS, astronaut, make_job

# torch's own compiler imports a part of torch that torch itself calls deprecated.
COMPILER_WARNS = pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
COMPILED_DB = 45.0


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    return ensure_weights(get_variant("tiny"), models_dir=cache, cache_dir=cache)


def load(weights: Path, *, compile_blocks: str = "off") -> RenderEngine:
    return RenderEngine.load(
        get_variant("tiny"),
        weights_dir=weights,
        device="cpu",
        precision="float32",
        compile_blocks=compile_blocks,
    )


def render(engine: RenderEngine, **changes: object) -> Rendering:
    job: RenderJob = replace(make_job("tiny"), frames=5, **changes)  # pyright: ignore[reportArgumentType]
    return engine.render(job, engine.embed_face(astronaut(), ASTRONAUT_LANDMARKS))


def psnr_db(found: Rendering, expected: Rendering) -> float:
    error = np.square(found.frames.astype(float) - expected.frames.astype(float)).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("memory", ["balanced", "low"])
def test_a_lora_is_laid_over_streamed_blocks_bit_for_bit(
    weights: Path, tmp_path: Path, memory: str
) -> None:
    engine = load(weights)
    lora = lora_of(write_lora(tmp_path / "film.st", factors(LAYERS)))
    plain = render(engine).frames
    resident = render(engine, loras=(lora,)).frames
    streamed = render(engine, loras=(lora,), memory=memory)
    assert streamed.conditions.streamed_blocks > 0
    np.testing.assert_array_equal(streamed.frames, resident)
    assert not np.array_equal(resident, plain)
    np.testing.assert_array_equal(render(engine, memory=memory).frames, plain)
    np.testing.assert_array_equal(render(engine).frames, plain)


@pytest.mark.parametrize("memory", ["balanced", "low"])
def test_a_cached_clip_is_the_same_in_every_tier(weights: Path, memory: str) -> None:
    engine = load(weights)
    exact = render(engine, steps=8).frames
    resident = render(engine, steps=8, speed="cache:first-block-0.2")
    streamed = render(engine, steps=8, speed="cache:first-block-0.2", memory=memory)
    assert resident.conditions.cached_passes > 0
    assert streamed.conditions.cached_passes == resident.conditions.cached_passes
    np.testing.assert_array_equal(streamed.frames, resident.frames)
    np.testing.assert_array_equal(render(engine, steps=8, memory=memory).frames, exact)


@COMPILER_WARNS
def test_compiled_blocks_are_streamed_cached_and_changed_by_loras(
    weights: Path, tmp_path: Path
) -> None:
    eager, compiled = load(weights), load(weights, compile_blocks="on")
    lora = lora_of(write_lora(tmp_path / "film.st", factors(LAYERS)))
    for changes in (
        {},
        {"memory": "low"},
        {"speed": "cache:first-block-0.2", "steps": 8},
        {"loras": (lora,)},
        {"loras": (lora,), "memory": "low"},
        {},
    ):
        found, expected = render(compiled, **changes), render(eager, **changes)
        assert found.conditions.compiled, changes
        assert psnr_db(found, expected) >= COMPILED_DB, changes
        assert found.conditions.cached_passes == expected.conditions.cached_passes
    strict = render(compiled, numerics="strict", memory="low")
    assert not strict.conditions.compiled
    np.testing.assert_array_equal(strict.frames, render(eager, numerics="strict").frames)


@COMPILER_WARNS
def test_a_lora_at_many_scales_never_meets_torchs_limit_of_recompilations(
    weights: Path, tmp_path: Path
) -> None:
    eager, compiled = load(weights), load(weights, compile_blocks="on")
    lora = lora_of(write_lora(tmp_path / "film.st", factors(LAYERS)))
    # The limit is 8: the ninth scale of a night would have failed its row.
    with torch._dynamo.config.patch(recompile_limit=1):
        for scale in (0.5, 1.5):
            loras = (replace(lora, scale=scale),)
            found, expected = render(compiled, loras=loras), render(eager, loras=loras)
            assert found.conditions.compiled
            assert psnr_db(found, expected) >= COMPILED_DB
