"""The video autoencoder: pictures to latents and back.

Pictures are encoded in float32 always; how a clip is decoded is chosen where it may be.

Source: Wan2.1, arXiv 2503.20314, through diffusers' `AutoencoderKLWan`. Latents leave here normed
channel by channel, z = (x - mean) / std, and come back so.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.models.components import build_component
from lynx_engine.models.device import tensor_float32
from lynx_engine.models.residence import Residence, put

# A picture whose every frame is flatter than this has no content; the faintest fog has more.
_BLANK_GREY_LEVELS = 1.0

DECODE_PRECISIONS = ("bfloat16", "tf32", "float32")
"""Ways to decode a clip, the fastest first; only the last one is exact."""
DECODE_FLOOR_DB = 45.0
"""Peak signal-to-noise ratio against float32 that a faster way must keep."""
PROBE_FRAMES = 3
"""Latent frames that show it: the first one passes other layers than those after it."""


class VideoAutoencoder:
    """Encodes a still picture and decodes a clip."""

    def __init__(self, vae: AutoencoderKLWan, residence: Residence, device: torch.device) -> None:
        """Wrap `vae`, whose tensors `residence` places; it computes on `device`."""
        self._vae = vae
        self._device = device
        self.residence = residence
        shape = (1, -1, 1, 1, 1)
        self._mean = torch.tensor(vae.config["latents_mean"], device=device).view(shape)
        self._std = torch.tensor(vae.config["latents_std"], device=device).view(shape)

    def encode_still(self, picture: npt.NDArray[np.uint8], *, seed: int) -> torch.Tensor:
        """Return the latent of one picture, sampled from its posterior.

        Args:
            picture: RGB uint8, [H, W, 3].
            seed: Seeds the draw, on the CPU so that every device draws the same.

        Returns:
            float32, [1, 16, 1, H / 8, W / 8], normed.
        """
        # Copied: an array that came from another process may be read-only, which torch warns of.
        pixels = torch.tensor(picture).to(self._device, torch.float32) / 127.5 - 1
        return self._encode(pixels.permute(2, 0, 1)[None, :, None], seed)

    def encode_grey(self, side_px: int, *, seed: int) -> torch.Tensor:
        """Return the latent of an all-zero (mid-grey) square: the reference of no subject."""
        return self._encode(torch.zeros(1, 3, 1, side_px, side_px, device=self._device), seed)

    def decode(
        self, latents: torch.Tensor, *, tiled: bool = False, precision: str = "float32"
    ) -> torch.Tensor:
        """Return pixels, float32 in [-1, 1] or NaN, [1, 3, F, H, W], of normed latents.

        Args:
            latents: [1, 16, T, h, w].
            tiled: Decode overlapping tiles of 256 pixels and blend them: less memory, other
                numbers, as a tile sees nothing beyond its edge. A clip no larger than a tile is
                decoded whole.
            precision: One of `DECODE_PRECISIONS`.
        """
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        if tiled:
            self._vae.enable_tiling()
        try:
            with self._at_work(tf32=precision == "tf32"), self._decoder_in(dtype):
                whole = latents.float() * self._std + self._mean
                return self._vae.decode(whole.to(dtype), return_dict=False)[0].float()
        finally:
            self._vae.disable_tiling()

    def fastest_precision(
        self, latents: torch.Tensor, *, tiled: bool = False, floor_db: float = DECODE_FLOOR_DB
    ) -> str:
        """Return the fastest precision whose pixels are as near to float32's as is asked.

        Args:
            latents: [1, 16, T, h, w]; the first few latent frames are decoded to see.
            tiled: As the clip will be decoded.
            floor_db: Smallest peak signal-to-noise ratio that is near enough.
        """
        few = latents[:, :, :PROBE_FRAMES]
        exact = self.decode(few, tiled=tiled)
        for precision in DECODE_PRECISIONS[:-1]:
            found = self.decode(few, tiled=tiled, precision=precision)
            if psnr_db(found, exact) >= floor_db:
                return precision
        return "float32"

    @contextmanager
    def _decoder_in(self, dtype: torch.dtype) -> Generator[None]:
        """Have the decoder in `dtype`; the encoder, whose latents go into a job, stays exact."""
        if dtype is torch.float32:
            yield
            return
        parts = (self._vae.decoder, self._vae.post_quant_conv)
        exact = [(part, n, p) for part in parts for n, p in part.named_parameters()]
        for part, name, tensor in exact:
            put(part, name, tensor.to(dtype))
        try:
            yield
        finally:
            for part, name, tensor in exact:
                put(part, name, tensor)

    @contextmanager
    def _at_work(self, *, tf32: bool = False) -> Generator[None]:
        with self.residence.visiting(), tensor_float32(allowed=tf32):
            try:
                yield
            finally:
                # Else what a failed run remembers of its frames stays until the next run.
                self._vae.clear_cache()

    def _encode(self, pixels: torch.Tensor, seed: int) -> torch.Tensor:
        with self._at_work():
            posterior = self._vae.encode(pixels, return_dict=False)[0]
        generator = torch.Generator("cpu").manual_seed(seed)
        return (posterior.sample(generator=generator) - self._mean) / self._std


def to_frames(pixels: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Return RGB frames, uint8 [F, H, W, 3], of pixels [1, 3, F, H, W] in [-1, 1], rounded."""
    grey = ((pixels[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return grey.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def checked_frames(pixels: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Return frames as `to_frames` does, of pixels that hold a picture.

    Raises:
        RowError: BAD_FRAMES, if they hold NaN or no content.
    """
    if not bool(torch.isfinite(pixels).all()):
        raise RowError(
            ErrorCode.BAD_FRAMES,
            "the model produced numbers that are not finite. Render the row with "
            "`precision: float32`, and check that the weights are those of their source.",
        )
    frames = to_frames(pixels)
    check_content(frames)
    return frames


def check_content(frames: npt.NDArray[np.uint8]) -> None:
    """Accept frames [F, H, W, 3] of which at least one shows something.

    Raises:
        RowError: BAD_FRAMES, if every frame is one flat colour.
    """
    contrast = 0.0
    for frame in frames:
        contrast = max(contrast, float(frame.std(axis=(0, 1)).max()))
        # The device waits meanwhile, and one look at all frames takes a second.
        if contrast >= _BLANK_GREY_LEVELS:
            return
    raise RowError(
        ErrorCode.BAD_FRAMES,
        f"every frame is one flat colour (contrast {contrast:.2f} grey levels). "
        "Lower the guidance, change the seed, or check that the weights are those of "
        "their source.",
    )


def psnr_db(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio of pixels in [-1, 1]; infinite where they are equal."""
    error = (found - exact).square().mean().item()
    if not math.isfinite(error):
        return -math.inf
    return 10 * math.log10(4 / error) if error else math.inf


def load_vae(base: Path, *, device: torch.device) -> VideoAutoencoder:
    """Build the autoencoder of a base model in diffusers layout; its tensors wait in their files.

    Raises:
        RowError: WEIGHTS, if a file is missing, damaged or does not fit.
    """
    vae, source = build_component(AutoencoderKLWan, base / "vae")
    residence = Residence(vae, source, device=device, dtypes=lambda _: torch.float32)
    return VideoAutoencoder(vae, residence, device)
