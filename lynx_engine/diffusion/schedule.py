"""The released noise schedule, given to diffusers' UniPC. It knows no model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

FIRST_SIGMA = 0.999


def released_sigmas(steps: int) -> npt.NDArray[np.float64]:
    """Return the `steps` noise levels before the flow shift: 0.999 falling evenly to nearly 0.

    sigma_i = 0.999 (1 - i / steps), i = 0 ... steps - 1; the scheduler adds the final 0 itself.
    """
    return np.linspace(FIRST_SIGMA, 0, steps + 1)[:-1]


class HostUniPC(UniPCMultistepScheduler):
    """diffusers' UniPC, except that its small equations are solved on the host.

    An update is a weighted sum of tensors, and the weights depend on the noise levels alone:

        x' = w_0 x + w_1 m_0 + w_2 m_1 + ...

    Stock UniPC works out its weights with tensors on the device: it copies noise levels there and
    solves a 2 x 2 system, each time waiting for all that was queued before. Here the weights are
    read off the stock update itself, run on the host with unit vectors in place of the tensors.
    """

    def multistep_uni_p_bh_update(
        self,
        model_output: torch.Tensor,
        *args: Any,
        sample: torch.Tensor | None = None,
        order: int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Predict the next latents; as in diffusers, of the shape of `sample`."""
        del model_output, args, kwargs  # the last of `model_outputs`; the others are of the past
        assert sample is not None
        assert order is not None
        stock = super().multistep_uni_p_bh_update

        def update(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return stock(x, sample=x, order=order)

        return self._weighted(update, order, sample)

    def multistep_uni_c_bh_update(
        self,
        this_model_output: torch.Tensor,
        *args: Any,
        last_sample: torch.Tensor | None = None,
        this_sample: torch.Tensor | None = None,
        order: int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Correct the latents that were predicted; as in diffusers, of their shape."""
        del args, kwargs  # deprecated forms that `step` does not use
        assert last_sample is not None
        assert this_sample is not None
        assert order is not None
        stock = super().multistep_uni_c_bh_update

        def update(last: torch.Tensor, this: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
            return stock(model, last_sample=last, this_sample=this, order=order)

        return self._weighted(update, order, last_sample, this_sample, this_model_output)

    def _weighted(
        self, update: Callable[..., torch.Tensor], order: int, *tensors: torch.Tensor
    ) -> torch.Tensor:
        """Return what `update` makes of `tensors` and the last `order` model outputs."""
        outputs = self.model_outputs
        past: list[torch.Tensor] = outputs[len(outputs) - order :]  # pyright: ignore
        units = torch.eye(len(tensors) + order)[:, None]
        # The stock update reads its past from the scheduler.
        unused = [None] * (len(outputs) - order)
        self.model_outputs = [*unused, *units[len(tensors) :]]  # pyright: ignore
        try:
            weights = update(*units[: len(tensors)])[0].tolist()
        finally:
            self.model_outputs = outputs
        terms = zip(weights, (*tensors, *past), strict=True)
        summed = [weight * tensor for weight, tensor in terms if weight != 0]
        return sum(summed[1:], summed[0])


def start_schedule(config: dict[str, object], *, steps: int) -> HostUniPC:
    """Return a fresh UniPC scheduler set to the released noise levels.

    The trap: `set_timesteps(steps)` looks right and is not. diffusers has changed the levels it
    builds from a count since the release (bytedance/lynx 3a6a91a ran on 0.33.1); today they are
    off by one in timestep, which moves the final latents by 0.5. Handing over the levels
    themselves agrees with the released sampler to 1.5e-5.

    Args:
        config: The base model's `scheduler/scheduler_config.json`; it holds the flow shift, 3.0.
        steps: Sampling steps, at least 1.
    """
    scheduler = HostUniPC.from_config(config)
    assert isinstance(scheduler, HostUniPC)  # alone unless unused kwargs are asked for
    # A list by its annotation, an array by its code: it calculates with what it is handed.
    scheduler.set_timesteps(sigmas=released_sigmas(steps))  # pyright: ignore[reportArgumentType]
    # Without it the first step looks its index up in a tensor.
    scheduler.set_begin_index(0)
    return scheduler
