"""Trains the tiny video autoencoder (AutoencoderKLWan) on drawn people.

First on single pictures, which are cheap and teach shapes and colours, then on clips, which teach
motion. A quarter of the pictures are seen close up and a part is plain pattern, since the reference
adapter hands the autoencoder a face that fills the picture, and users hand it photographs.
"""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from PIL import Image
from torch import Tensor

from lynx_engine.training.drawings import Action, Frames, draw_clip, draw_portrait
from lynx_engine.training.people import make_person
from lynx_engine.training.scenes import Scene
from lynx_engine.training.stage import Losses, Stage

HELD_OUT = 1_000_000
"""People from this seed on are never trained on."""

SIDE, FRAMES = 64, 9
_PICTURES, _CLIPS = 12, 2
_KL = 1e-6


def autoencoder_stage(model: AutoencoderKLWan, *, steps: int, pictures: float = 0.4) -> Stage:
    """Return the stage that trains `model`.

    Args:
        model: Its weights are changed.
        steps: Optimiser steps; some 10,000 are hours of a CPU.
        pictures: Share of the steps that see single pictures.
    """

    def losses(step: int) -> Losses:
        random = Random(f"autoencoder {step}")
        if step < steps * pictures:
            batch = to_tensor(np.stack([_picture(random)[None] for _ in range(_PICTURES)]))
        else:
            batch = to_tensor(np.stack([_clip(random) for _ in range(_CLIPS)]))
        generator = torch.Generator().manual_seed(step)
        posterior: Any = model.encode(batch).latent_dist  # pyright: ignore
        seen: Tensor = model.decode(posterior.sample(generator)).sample  # pyright: ignore
        absolute, squared = (seen - batch).abs().mean(), (seen - batch).square().mean()
        kl = posterior.kl().mean()
        return {"total": absolute + 4 * squared + _KL * kl, "squared": squared, "kl": kl}

    return Stage("autoencoder", steps, 2e-3, losses)


def to_tensor(frames: Frames) -> Tensor:
    """Return uint8 [B, F, H, W, 3] as the autoencoder's float32 [B, 3, F, H, W], -1 to 1."""
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


@torch.no_grad()
def psnr(model: AutoencoderKLWan, clips: int) -> float:
    """Return the peak signal-to-noise ratio over clips of held-out people, in dB of 255."""
    squared: list[float] = []
    for number in range(clips):
        random = Random(f"held out {number}")
        batch = to_tensor(_held_out_clip(HELD_OUT + number, random)[None])
        latent: Tensor = model.encode(batch).latent_dist.mode()  # pyright: ignore
        seen: Tensor = model.decode(latent).sample.clamp(-1, 1)  # pyright: ignore
        squared.append(float(((seen - batch) * 127.5).square().mean()))
    return float(10 * np.log10(255**2 / np.mean(squared)))


def _held_out_clip(person: int, random: Random) -> Frames:
    scene, action = random.choice(tuple(Scene)), random.choice(tuple(Action))
    drawing = draw_clip(
        make_person(person), scene, action, frames=FRAMES, side=SIDE, seed=random.getrandbits(32)
    )
    return drawing.frames


def _clip(random: Random) -> Frames:
    return _held_out_clip(random.randrange(HELD_OUT), random)


def _picture(random: Random) -> Frames:
    kind = random.random()
    person = make_person(random.randrange(HELD_OUT))
    if kind < 0.6:
        scene, action = random.choice(tuple(Scene)), random.choice(tuple(Action))
        return draw_clip(
            person, scene, action, frames=1, side=SIDE, seed=random.getrandbits(32)
        ).frames[0]
    if kind < 0.9:
        near = draw_portrait(person, side=2 * SIDE, seed=random.getrandbits(32)).frames[0]
        left, top = random.randrange(SIDE), random.randrange(SIDE // 2)
        return near[top : top + SIDE, left : left + SIDE]
    return _texture(random)


def _texture(random: Random) -> Frames:
    """Return smooth coloured noise of a random coarseness."""
    cells = random.choice((2, 4, 8, 16, 32))
    noise = np.random.default_rng(random.getrandbits(32)).integers(0, 256, (cells, cells, 3))
    small = Image.fromarray(noise.astype(np.uint8))
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
