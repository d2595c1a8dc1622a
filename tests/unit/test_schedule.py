"""The released noise levels, against their closed form."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from lynx_engine.diffusion.schedule import released_sigmas, start_schedule
from lynx_engine.models.tiny_layout import SCHEDULER


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 50])
def test_levels_are_the_shifted_line_from_0_999_and_end_at_zero(steps: int) -> None:
    line = np.array([0.999 * (1 - i / steps) for i in range(steps)])
    shifted = 3 * line / (1 + 2 * line)
    schedule = start_schedule(SCHEDULER, steps=steps)
    np.testing.assert_allclose(schedule.sigmas.numpy(), [*shifted, 0.0], atol=1e-7)
    np.testing.assert_array_equal(schedule.timesteps.numpy(), np.floor(1000 * shifted))


def test_levels_before_the_shift_never_reach_zero() -> None:
    sigmas = released_sigmas(50)
    assert sigmas.shape == (50,)
    assert sigmas[0] == 0.999
    assert sigmas[-1] == pytest.approx(0.999 / 50)


def test_trap_is_real_stock_levels_differ_from_the_released_ones() -> None:
    stock = UniPCMultistepScheduler(**{k: v for k, v in SCHEDULER.items() if k[0] != "_"})
    stock.set_timesteps(4)
    ours = start_schedule(SCHEDULER, steps=4)
    assert abs(float(stock.sigmas[1]) - float(ours.sigmas[1])) > 1e-4
    assert int(stock.timesteps[1]) != int(ours.timesteps[1])


def test_every_clip_gets_a_schedule_of_its_own() -> None:
    assert start_schedule(SCHEDULER, steps=4) is not start_schedule(SCHEDULER, steps=4)
