"""The noise a clip starts from. It knows shapes and seeds, no model."""

from __future__ import annotations

import torch

from lynx_engine.shapes import FrameSize, latent_frames

LATENT_CHANNELS = 16
CELL_PX = 8


def latent_shape(
    frames: int, size: FrameSize, *, frame_stride: int
) -> tuple[int, int, int, int, int]:
    """Return [B, C, T, h, w] = [1, 16, (F - 1) / stride + 1, H / 8, W / 8]."""
    return (
        1,
        LATENT_CHANNELS,
        latent_frames(frames, frame_stride),
        size.height_px // CELL_PX,
        size.width_px // CELL_PX,
    )


def draw_noise(shape: tuple[int, ...], *, seed: int) -> torch.Tensor:
    """Return standard normal noise, float32, on the CPU.

    The CPU draws it: the CUDA generator gives other numbers for the same seed, and a rounded type
    would give each precision a picture of its own.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
