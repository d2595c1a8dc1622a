"""The released noise schedule, given to diffusers' UniPC. It knows no model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

FIRST_SIGMA = 0.999


def released_sigmas(steps: int) -> npt.NDArray[np.float64]:
    """Return the `steps` noise levels before the flow shift: 0.999 falling evenly to nearly 0.

    sigma_i = 0.999 (1 - i / steps), i = 0 ... steps - 1; the scheduler adds the final 0 itself.
    """
    return np.linspace(FIRST_SIGMA, 0, steps + 1)[:-1]


def start_schedule(config: dict[str, object], *, steps: int) -> UniPCMultistepScheduler:
    """Return a fresh UniPC scheduler set to the released noise levels.

    The trap: `set_timesteps(steps)` looks right and is not. diffusers has changed the levels it
    builds from a count since the release (bytedance/lynx 3a6a91a ran on 0.33.1); today they are
    off by one in timestep, which moves the final latents by 0.5. Handing over the levels
    themselves agrees with the released sampler to 1.5e-5.

    Args:
        config: The base model's `scheduler/scheduler_config.json`; it holds the flow shift, 3.0.
        steps: Sampling steps, at least 1.
    """
    scheduler = UniPCMultistepScheduler.from_config(config)
    assert isinstance(
        scheduler, UniPCMultistepScheduler
    )  # alone unless unused kwargs are asked for
    # A list by its annotation, an array by its code: it calculates with what it is handed.
    scheduler.set_timesteps(sigmas=released_sigmas(steps))  # pyright: ignore[reportArgumentType]
    # Without it the first step looks its index up in a tensor.
    scheduler.set_begin_index(0)
    return scheduler
