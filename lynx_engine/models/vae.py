"""The video autoencoder: pictures to latents and back. Always float32.

Source: Wan2.1, arXiv 2503.20314, through diffusers' `AutoencoderKLWan`. Latents leave here normed
channel by channel, z = (x - mean) / std, and come back so.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from lynx_engine.models.wan import load_component


class VideoAutoencoder:
    """Encodes a still picture and decodes a clip."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        """Wrap `vae`, where it lies."""
        self._vae = vae
        shape = (1, -1, 1, 1, 1)
        self._mean = torch.tensor(vae.config["latents_mean"], device=vae.device).view(shape)
        self._std = torch.tensor(vae.config["latents_std"], device=vae.device).view(shape)

    def encode_still(self, picture: npt.NDArray[np.uint8], *, seed: int) -> torch.Tensor:
        """Return the latent of one picture, sampled from its posterior.

        Args:
            picture: RGB uint8, [H, W, 3].
            seed: Seeds the draw, on the CPU so that every device draws the same.

        Returns:
            float32, [1, 16, 1, H / 8, W / 8], normed.
        """
        # Copied: an array that came from another process may be read-only, which torch warns of.
        pixels = torch.tensor(picture).to(self._vae.device, torch.float32) / 127.5 - 1
        return self._encode(pixels.permute(2, 0, 1)[None, :, None], seed)

    def encode_grey(self, side_px: int, *, seed: int) -> torch.Tensor:
        """Return the latent of an all-zero (mid-grey) square: the reference of no subject."""
        return self._encode(torch.zeros(1, 3, 1, side_px, side_px, device=self._vae.device), seed)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pixels, float32 in [-1, 1] or NaN, [1, 3, F, H, W], of normed latents."""
        return self._vae.decode(latents.float() * self._std + self._mean, return_dict=False)[0]

    def _encode(self, pixels: torch.Tensor, seed: int) -> torch.Tensor:
        posterior = self._vae.encode(pixels, return_dict=False)[0]
        generator = torch.Generator("cpu").manual_seed(seed)
        return (posterior.sample(generator=generator) - self._mean) / self._std


def to_frames(pixels: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Return RGB frames, uint8 [F, H, W, 3], of pixels [1, 3, F, H, W] in [-1, 1], rounded."""
    grey = ((pixels[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return grey.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def load_vae(base: Path, *, device: torch.device) -> VideoAutoencoder:
    """Load the autoencoder of a base model in diffusers layout.

    Raises:
        RowError: WEIGHTS, if a file is missing, damaged or does not fit.
    """
    vae = load_component(AutoencoderKLWan, base / "vae", device=device, dtype=torch.float32)
    return VideoAutoencoder(vae)
