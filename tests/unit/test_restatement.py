"""The denoiser against a restatement of the released method, and what it keeps between passes.

The oracle is tests/support/restatement.py, which shares only weights with the code under test.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from lynx_engine.capacity.placement import RESIDENT
from tests.benchmarks.guided_step import GuidedStep, Shape, make_step, steady

SHAPE = Shape(
    blocks=4, heads=2, head_width=24, ffn=96, text_width=32, lite_width=40, cells=(3, 8, 6)
)
WIDE = replace(SHAPE, blocks=3, heads=3, head_width=32, cells=(1, 4, 12))
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def step_of(variant: str, shape: Shape = SHAPE, **options: Any) -> GuidedStep:
    return make_step(variant, shape, device=CPU, dtype=torch.float32, **options)


def anew(step: GuidedStep) -> torch.Tensor:
    """Return the step's velocity with nothing kept or shared."""
    return step.guidance.combine(
        [
            step.denoiser.velocity(step.latents, step.timestep, text=text, adapters=adapters)
            for text, adapters in zip(step.texts, step.adapters, strict=True)
        ]
    )


@pytest.mark.parametrize("variant", ["lynx_full", "lynx_lite"])
@pytest.mark.parametrize("shape", [SHAPE, WIDE])
def test_guided_step_is_the_released_methods(variant: str, shape: Shape) -> None:
    step = step_of(variant, shape)
    expected = step.restated()
    assert expected.std() > 0.1
    torch.testing.assert_close(anew(step), expected, atol=2e-5, rtol=0)
    with steady(step):
        torch.testing.assert_close(step.ours(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("variant", ["lynx_full", "lynx_lite"])
def test_adapters_matter_to_the_oracle(variant: str) -> None:
    step = step_of(variant)
    assert (step.restated() - step.without_adapters()).abs().max() > 1e-3


@pytest.mark.parametrize("variant", ["lynx_full", "lynx_lite"])
@pytest.mark.parametrize("keeps_text_kv", [True, False])
@pytest.mark.parametrize("shares_first_block", [True, False])
def test_what_is_kept_and_shared_changes_no_bit(
    variant: str, keeps_text_kv: bool, shares_first_block: bool
) -> None:
    step = step_of(variant)
    expected = anew(step)
    step.denoiser.placement = replace(
        RESIDENT, keeps_text_kv=keeps_text_kv, shares_first_block=shares_first_block
    )
    with steady(step):
        for _ in range(2):
            assert torch.equal(step.ours(), expected)


def calls_of(module: Any) -> list[int]:
    """Return a list that grows with each call of a linear layer."""
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_work_of_a_clip_and_of_a_step_is_done_once() -> None:
    step = step_of("lynx_full")
    model: Any = step.denoiser.transformer
    text_keys, first_queries, later_queries, words, patches = (
        calls_of(module)
        for module in (
            model.blocks[2].attn2.to_k,
            model.blocks[0].attn1.to_q,
            model.blocks[1].attn1.to_q,
            model.condition_embedder.text_embedder.linear_1,
            model.condition_embedder.time_proj,
        )
    )
    with step.denoiser.clip("normal"):
        for _ in range(3):
            step.ours()
    assert len(text_keys) == len(words) == 2  # prompt and negative prompt
    assert len(first_queries) == 3
    assert len(later_queries) == 3 * 3
    # The module is called by each branch, and looks its output up in two of three.
    assert len(patches) == 3 * 3


def test_placement_without_room_keeps_neither() -> None:
    step = step_of("lynx_full")
    model: Any = step.denoiser.transformer
    text_keys, first_queries = map(
        calls_of, (model.blocks[2].attn2.to_k, model.blocks[0].attn1.to_q)
    )
    step.denoiser.placement = replace(RESIDENT, keeps_text_kv=False, shares_first_block=False)
    with step.denoiser.clip("normal"):
        step.ours()
        step.ours()
    assert len(text_keys) == len(first_queries) == 2 * 3


def test_two_clips_in_turns_leave_no_trace_in_each_other() -> None:
    first, second = step_of("lynx_full"), step_of("lynx_full")
    # One model, two jobs whose tensors have equal shapes throughout.
    other = replace(
        first,
        latents=first.latents.flip(-1),
        texts=[text.flip(1) for text in first.texts],
        adapters=first.adapters[::-1],
    )
    expected = anew(first), anew(other)
    assert not torch.equal(*expected)
    for _ in range(2):
        for step, velocity in zip((first, other), expected, strict=True):
            with step.denoiser.clip("normal"):
                assert torch.equal(step.ours(), velocity)
                assert torch.equal(step.ours(), velocity)
    assert torch.equal(anew(second), expected[0])


def test_latents_changed_in_place_between_steps_are_seen() -> None:
    step = step_of("lynx_full")
    with step.denoiser.clip("normal"):
        step.ours()
        step.latents.mul_(0.5)
        step.timestep.fill_(100)
        changed = step.ours()
    assert torch.equal(changed, anew(step))


def test_other_latents_within_a_step_are_predicted_on_their_own() -> None:
    step = step_of("lynx_full")
    other = step.latents.flip(-1)
    inputs = {"text": step.texts[0], "adapters": step.adapters[0]}
    expected = step.denoiser.velocity(other, step.timestep, **inputs)  # type: ignore[arg-type]
    with step.denoiser.clip("normal"), step.denoiser.step():
        step.denoiser.velocity(step.latents, step.timestep, **inputs)  # type: ignore[arg-type]
        found = step.denoiser.velocity(other, step.timestep, **inputs)  # type: ignore[arg-type]
    assert torch.equal(found, expected)


def test_pass_that_breaks_midway_leaves_nothing_behind() -> None:
    step = step_of("lynx_full")
    expected = anew(step)
    breaks = [False]

    def hook(*_: object) -> None:
        if breaks[0]:
            raise RuntimeError("broken on purpose")

    last: Any = step.denoiser.transformer.blocks[-1]
    last.ffn.register_forward_hook(hook)
    with step.denoiser.clip("normal"):
        breaks[0] = True
        with pytest.raises(RuntimeError, match="on purpose"):
            step.ours()
        breaks[0] = False
        assert torch.equal(step.ours(), expected)
    assert torch.equal(anew(step), expected)


def test_nothing_of_a_clip_stays_in_memory_after_it() -> None:
    step = step_of("lynx_full")
    kept = kept_tensors(step)
    with step.denoiser.clip("normal"):
        step.ours()
        assert kept_tensors(step) > kept
    assert kept_tensors(step) == kept


def kept_tensors(step: GuidedStep) -> int:
    """Count the tensors that the denoiser's own memory holds."""
    gc.collect()
    seen: set[int] = set()
    todo: list[object] = [vars(step.denoiser)]
    todo += [vars(p) for p in step.denoiser.transformer.attn_processors.values()]
    weights = {id(p) for p in step.denoiser.transformer.parameters()}
    found = 0
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            found += id(thing) not in weights
        elif isinstance(thing, dict | list | tuple) or type(thing).__module__.startswith("lynx"):
            todo += gc.get_referents(thing)
    return found


def test_one_clip_at_a_time() -> None:
    step = step_of("lynx_lite")
    with (
        step.denoiser.clip("normal"),
        pytest.raises(RuntimeError, match="another clip"),
        step.denoiser.clip("normal"),
    ):
        pass
