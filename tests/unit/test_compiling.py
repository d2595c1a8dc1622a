"""Compiled blocks: as few graphs as promised, near the eager result, and a way back to eager."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from lynx_engine.capacity.placement import RESIDENT
from lynx_engine.models import compiling
from lynx_engine.models.compiling import wants_compile
from tests.benchmarks.guided_step import GuidedStep, Shape, make_step

SHAPE = Shape(
    blocks=4, heads=2, head_width=24, ffn=96, text_width=32, lite_width=40, cells=(2, 8, 6)
)
CPU = torch.device("cpu")

# torch's own compiler imports a part of torch that torch itself calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


def compiled_step(variant: str, dtype: torch.dtype = torch.float32) -> GuidedStep:
    return make_step(variant, SHAPE, device=CPU, dtype=dtype, compiles=True)


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def decibels(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio over the range of `expected`."""
    error = (found - expected).square().mean().sqrt()
    return float(20 * torch.log10((expected.max() - expected.min()) / error))


def in_clip(step: GuidedStep, numerics: str = "normal") -> torch.Tensor:
    with step.denoiser.clip(numerics):
        step.ours()
        return step.ours()


@pytest.mark.parametrize("variant", ["lynx_full", "lynx_lite"])
def test_one_graph_serves_all_blocks_branches_steps_and_clips(variant: str) -> None:
    step = compiled_step(variant)
    before = graphs()
    found = in_clip(step)
    assert graphs() == before + 1
    assert decibels(found, step.restated()) >= 45
    other = replace(
        step,
        latents=step.latents.flip(-1),
        texts=[text.flip(1) for text in step.texts],
        adapters=step.adapters[::-1],
        timestep=step.timestep // 2,
    )
    assert decibels(in_clip(other), make_eager(other)) >= 45
    assert graphs() == before + 1
    if variant == "lynx_lite":
        larger = replace(step, latents=torch.cat((step.latents, step.latents), dim=2))
        assert decibels(in_clip(larger), make_eager(larger)) >= 45
        in_clip(step)  # the graph of the first size is still there
        assert graphs() == before + 2
    assert step.denoiser.compiles_for("normal")


def make_eager(step: GuidedStep) -> torch.Tensor:
    """Return the step's velocity outside a clip, where nothing is compiled."""
    return step.ours()


def test_text_projected_in_every_step_is_one_graph_too() -> None:
    step = compiled_step("lynx_lite")
    step.denoiser.placement = replace(RESIDENT, keeps_text_kv=False, shares_first_block=False)
    before = graphs()
    assert decibels(in_clip(step), step.restated()) >= 45
    assert graphs() == before + 1


def test_strict_numerics_never_run_compiled() -> None:
    step = compiled_step("lynx_lite")
    before = graphs()
    assert torch.equal(in_clip(step, "strict"), make_eager(step))
    assert not step.denoiser.compiles_for("strict")
    assert graphs() == before


def test_failed_compilation_runs_eager_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    step = compiled_step("lynx_full")
    expected = make_eager(step)
    # A real failure: no compiler of that name is there.
    nameless = inductor.patch({"cpp.cxx": ("no-such-compiler",)})
    with nameless, caplog.at_level(logging.WARNING, logger=compiling.__name__):
        assert torch.equal(in_clip(step), expected)
        assert torch.equal(in_clip(step), expected)
    assert not step.denoiser.compiles_for("normal")
    (told,) = [r.getMessage() for r in caplog.records if r.name == compiling.__name__]
    assert "without torch.compile" in told
    assert "\n" not in told


def test_full_device_is_no_failure_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    step = compiled_step("lynx_full")
    with monkeypatch.context() as patched:
        patched.setattr(compiling, "_compiled", lambda: full)
        with pytest.raises(torch.OutOfMemoryError):
            in_clip(step)
    assert step.denoiser.compiles_for("normal")


@pytest.mark.parametrize(
    ("setting", "device", "wanted"),
    [("auto", "cpu", False), ("on", "cpu", True), ("off", "cpu", False), ("off", "cuda", False)],
)
def test_setting_decides(setting: str, device: str, wanted: bool) -> None:
    assert wants_compile(setting, torch.device(device)) is wanted
