"""The sampling loop, on velocities whose answer is known."""

from __future__ import annotations

import pytest
import torch

from lynx_engine.diffusion.guidance import TextGuidance
from lynx_engine.diffusion.latents import draw_noise, latent_shape
from lynx_engine.diffusion.sampler import Branch, sample
from lynx_engine.diffusion.schedule import start_schedule
from lynx_engine.models.tiny_layout import SCHEDULER
from lynx_engine.shapes import FrameSize

SHAPE = (1, 16, 2, 4, 6)


def towards(target: torch.Tensor, sigmas: torch.Tensor) -> Branch:
    """Return the exact velocity of a straight path from noise to `target`: (x - target) / sigma."""
    step = iter(range(len(sigmas)))
    return lambda latents, _: (latents - target) / sigmas[next(step)]


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_exact_velocity_arrives_at_its_target(steps: int) -> None:
    target = draw_noise(SHAPE, seed=1)
    schedule = start_schedule(SCHEDULER, steps=steps)
    branch = towards(target, schedule.sigmas)
    noise = draw_noise(SHAPE, seed=2)
    # Scale 1 cancels the first branch, which here is nonsense.
    branches = (lambda latents, _: latents + 100, branch)
    arrived = sample(noise, branches, schedule=schedule, guidance=TextGuidance(text=1.0))
    torch.testing.assert_close(arrived, target, atol=2e-3, rtol=0)


def test_guidance_moves_the_target_by_its_formula() -> None:
    schedule = start_schedule(SCHEDULER, steps=4)
    low, high = torch.zeros(SHAPE), torch.ones(SHAPE)
    branches = (towards(low, schedule.sigmas), towards(high, schedule.sigmas))
    noise = draw_noise(SHAPE, seed=3)
    arrived = sample(noise, branches, schedule=schedule, guidance=TextGuidance(text=5.0))
    torch.testing.assert_close(arrived, torch.full(SHAPE, 5.0), atol=1e-3, rtol=0)


def test_progress_names_each_step_once_in_order() -> None:
    schedule = start_schedule(SCHEDULER, steps=3)
    heard: list[tuple[int, int]] = []
    sample(
        draw_noise(SHAPE, seed=0),
        (lambda latents, _: latents, lambda latents, _: latents),
        schedule=schedule,
        guidance=TextGuidance(text=1.0),
        on_step=lambda done, steps: heard.append((done, steps)),
    )
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_branches_are_told_the_timestep_of_their_step() -> None:
    schedule = start_schedule(SCHEDULER, steps=4)
    told: list[int] = []

    def branch(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        assert timestep.shape == (1,)
        told.append(int(timestep))
        return latents

    guidance = TextGuidance(text=1.0)
    sample(draw_noise(SHAPE, seed=0), (branch, branch), schedule=schedule, guidance=guidance)
    assert told == [999, 999, 899, 899, 749, 749, 499, 499]


def test_latents_of_a_portrait_clip() -> None:
    size = FrameSize(width_px=480, height_px=832)
    assert latent_shape(81, size, frame_stride=4) == (1, 16, 21, 104, 60)


def test_noise_is_standard_normal_and_the_seeds_own() -> None:
    noise = draw_noise((1, 16, 8, 16, 16), seed=42)
    assert noise.dtype == torch.float32
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
    assert torch.equal(noise, draw_noise((1, 16, 8, 16, 16), seed=42))
    assert not torch.equal(noise, draw_noise((1, 16, 8, 16, 16), seed=43))


def test_largest_seed_draws_noise() -> None:
    assert draw_noise((2,), seed=2**63 - 1).isfinite().all()
