"""The sampling loop, from noise to latents. What predicts the velocity is the caller's business."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from lynx_engine.diffusion.guidance import Guidance

Branch = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents [B, C, T, h, w], timestep [B]) -> velocity, float32, of the latents' shape."""


def sample(
    noise: torch.Tensor,
    branches: Sequence[Branch],
    *,
    schedule: UniPCMultistepScheduler,
    guidance: Guidance,
    one_step: Callable[[], AbstractContextManager[None]] = nullcontext,
    on_step: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Follow the guided velocity from `noise` to latents.

    Args:
        noise: float32, [B, C, T, h, w], on the device that computes.
        branches: The predictions of one step, in the order `guidance` expects.
        schedule: A fresh scheduler; it remembers the steps behind it, so it serves one clip.
        guidance: Combines the branches.
        one_step: Entered around the branches of each step, which are all handed the same two
            tensors, so that whoever makes them may share work between them.
        on_step: Called with (steps done, steps). It hears when the step is queued; on an
            accelerator the work may still run, for the loop never waits.

    Returns:
        Latents, float32, of the shape of `noise`.
    """
    latents = noise
    steps = len(schedule.timesteps)
    # The scheduler keeps its CPU copy; the branches get theirs on the device, moved once.
    timesteps = schedule.timesteps.to(noise.device)
    for index, timestep in enumerate(schedule.timesteps):
        at = timesteps[index].expand(noise.shape[0])
        with one_step():
            velocities = [branch(latents, at) for branch in branches]
        velocity = guidance.combine(velocities)
        latents = schedule.step(velocity, timestep, latents, return_dict=False)[0]
        if on_step is not None:
            on_step(index + 1, steps)
    return latents
