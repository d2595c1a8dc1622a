"""Burnt-in labels as a viewer sees them: after a real encoder and a real decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lynx_engine.media.burn_in import TEXTS, burn_in, plate_for
from lynx_engine.media.video import ClipFormat, encode_clip, read_frames
from lynx_engine.shapes import FrameSize

FRAMES = 5
BACKGROUNDS: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
    "white": lambda shape: np.full(shape, 255, np.uint8),
    "black": lambda shape: np.zeros(shape, np.uint8),
    "grey": lambda shape: np.full(shape, 128, np.uint8),
    "noise": lambda shape: np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8),
}


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB, as WCAG 2.2 defines it."""
    part = rgb / 255.0
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def worst_contrast(decoded: np.ndarray, profile: str, width: int, height: int) -> float:
    """The darker strokes against the lighter plate: all but a tenth of either does better."""
    plate = plate_for(profile, width, height)
    h, w = plate.pixels.shape[:2]
    drawn = decoded[:, plate.top_px : plate.top_px + h, plate.left_px : plate.left_px + w]
    ink = plate.pixels[..., 0]
    text, ground = luminance(drawn[:, ink > 200]), luminance(drawn[:, ink < 30])
    return float((np.percentile(text, 10) + 0.05) / (np.percentile(ground, 90) + 0.05))


@pytest.mark.parametrize("profile", sorted(TEXTS))
@pytest.mark.parametrize(("width", "height"), [(832, 480), (480, 832), (64, 64), (32, 32)])
def test_text_keeps_its_contrast_on_any_background_after_encoding(
    profile: str, width: int, height: int, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    contrasts: dict[str, float] = {}
    for name, background in BACKGROUNDS.items():
        frames = background((FRAMES, height, width, 3))
        path = tmp_path / f"{name}.mp4"
        clip = ClipFormat(FRAMES, 8, FrameSize(width, height), "h264", 18)
        encode_clip(burn_in(frames, profile, 8), path, clip)
        contrasts[name] = worst_contrast(read_frames(path), profile, width, height)
    told = " ".join(f"{name}={value:.1f}" for name, value in contrasts.items())
    figure(f"LABEL profile={profile} size={width}x{height} contrast {told}")
    # WCAG 2.2, 1.4.3: 4.5 for text of any size.
    assert min(contrasts.values()) >= 4.5
