"""Sampling never waits for the device, and its scheduler still gives diffusers' numbers.

The device is torch's `meta`, which computes nothing: whatever needs a number from it cannot have
one. All other work stands on the host, where it waits for nobody.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from lynx_engine.diffusion.latents import draw_noise
from lynx_engine.diffusion.sampler import sample
from lynx_engine.diffusion.schedule import released_sigmas, start_schedule
from lynx_engine.models.tiny_layout import SCHEDULER
from tests.benchmarks.guided_step import GuidedStep, Shape, make_step

SHAPE = Shape(
    blocks=2, heads=2, head_width=24, ffn=96, text_width=32, lite_width=40, cells=(2, 8, 6)
)
DEVICE = torch.device("meta")
WAITS = ("_local_scalar_dense", "linalg", "nonzero", "equal", "is_nonzero", "item", "unique")


class DeviceOps(TorchDispatchMode):
    """Counts the operations that touch the device and notes those that wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.waits: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = str(func)
        before, after = (places(values) for values in ((args, kwargs), out))
        if DEVICE.type in before | after:
            self.seen[name] += 1
            moved = bool(before and after) and before.isdisjoint(after)
            moved = moved or ("copy" in name and len(before | after) > 1)
            if moved or any(wait in name for wait in WAITS):
                self.waits.append(f"{name}: {before} -> {after}")
        return out


def places(values: object) -> set[str]:
    return {leaf.device.type for leaf in tree_flatten(values)[0] if isinstance(leaf, torch.Tensor)}


def sampled(step: GuidedStep, ops: DeviceOps, schedule: UniPCMultistepScheduler) -> torch.Tensor:
    branches = [
        lambda x, t, text=text, kv=kv: step.denoiser.velocity(x, t, text=text, adapters=kv)
        for text, kv in zip(step.texts, step.adapters, strict=True)
    ]
    with torch.inference_mode(), step.denoiser.clip("normal"):

        def loop(done: int, steps: int) -> None:
            del steps
            if done == 1:  # what comes before the first step may still be copied there
                ops.waits.clear()

        with ops:
            return sample(
                step.latents,
                branches,
                schedule=schedule,  # type: ignore[arg-type]
                guidance=step.guidance,
                one_step=step.denoiser.step,
                on_step=loop,
            )


@pytest.mark.parametrize("variant", ["lynx_full", "lynx_lite"])
def test_no_step_waits_for_the_device(variant: str) -> None:
    step = make_step(variant, SHAPE, device=DEVICE, dtype=torch.bfloat16)
    ops = DeviceOps()
    latents = sampled(step, ops, start_schedule(SCHEDULER, steps=5))
    assert latents.shape == step.latents.shape
    assert ops.waits == []
    assert sum(ops.seen.values()) > 1000


def test_stock_scheduler_is_caught_waiting() -> None:
    step = make_step("lynx_lite", SHAPE, device=DEVICE, dtype=torch.bfloat16)
    stock = stock_schedule(5)
    ops = DeviceOps()
    sampled(step, ops, stock)
    assert any("linalg" in wait for wait in ops.waits)
    assert any("{'cpu'} -> {'meta'}" in wait for wait in ops.waits)


def stock_schedule(steps: int, **changes: object) -> UniPCMultistepScheduler:
    stock = UniPCMultistepScheduler.from_config({**SCHEDULER, **changes})
    assert isinstance(stock, UniPCMultistepScheduler)
    stock.set_timesteps(sigmas=released_sigmas(steps))  # type: ignore[arg-type]
    stock.set_begin_index(0)
    return stock


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_weights_from_the_host_give_diffusers_latents(steps: int, order: int) -> None:
    changes: dict[str, object] = {"solver_order": order}
    ours = start_schedule({**SCHEDULER, **changes}, steps=steps)
    stock = stock_schedule(steps, **changes)
    x = y = draw_noise((1, 16, 2, 4, 6), seed=0)
    for number, timestep in enumerate(stock.timesteps):
        velocity = draw_noise((1, 16, 2, 4, 6), seed=number + 1) + x.tanh()
        x = stock.step(velocity, timestep, x, return_dict=False)[0]
        y = ours.step(velocity, timestep, y, return_dict=False)[0]
        torch.testing.assert_close(y, x, atol=1e-5, rtol=1e-6)
    assert x.std() > 0.3
