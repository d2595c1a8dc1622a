"""Draws the visible label that says a machine made the clip: light text on a dark plate.

It knows frames and a font with the few characters it needs. Which profile a row asks for is the
manifest's word; what the profiles must show is written where their texts stand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import ImageFont

FONT = Path(__file__).parent / "fonts" / "lynx_label.ttf"
NO_LABEL = "none"

# Lines of text, the first that fits is drawn. `cn`: GB 45438-2025 asks for "人工智能" or "AI"
# together with "生成" (or "合成"). `eu`: the AI Act's article 50 names no words; where the whole
# does not fit, the acronym that its code of practice allows remains.
TEXTS = {
    "eu": (("AI-generated",), ("AI-", "generated"), ("AI",)),
    "cn": (("AI生成",), ("AI", "生成")),
}
# GB 45438-2025: characters as high as 5 % of the picture's shorter side at least, 2 s at least.
# The height of capital letters is held to it, in both profiles.
LEAST_HEIGHT = 0.05
OPENING_S = 2.0
_OPENING_ONLY = frozenset({"cn"})
# SMPTE ST 2046-1: text is safe from cut edges in the inner 90 % of width and height.
SAFE_MARGIN = 0.05
# Sizes of the em. Below 9 px the strokes of 成 melt into each other.
_WANTED_PX = 12
_LEGIBLE_PX = 9
_TEXT_RGB = (255, 255, 255)
_PLATE_RGB = (16, 16, 16)


@dataclass(frozen=True, slots=True, eq=False)
class Plate:
    """A label, drawn for one frame size.

    Attributes:
        pixels: RGB uint8 [h, w, 3].
        top_px: Row of the frame where it begins.
        left_px: Column of the frame where it begins.
        lines: What it says.
        capitals_px: Height of its capital letters.
    """

    pixels: npt.NDArray[np.uint8]
    top_px: int
    left_px: int
    lines: tuple[str, ...]
    capitals_px: float


def burn_in(frames: npt.NDArray[np.uint8], profile: str, fps: float) -> npt.NDArray[np.uint8]:
    """Return new frames that carry the label of a profile; `frames` stay as they are.

    `eu` labels every frame, `cn` the first 2 s, of a shorter clip all.

    Args:
        frames: RGB uint8 [F, H, W, 3].
        profile: `none` (the very same frames come back), `eu` or `cn`.
        fps: Frames a second.

    Raises:
        KeyError: If there is no such profile.
    """
    if profile == NO_LABEL:
        return frames
    height, width = frames.shape[1:3]
    plate = plate_for(profile, width, height)
    labelled = frames.copy()
    shown = math.ceil(OPENING_S * fps) if profile in _OPENING_ONLY else len(frames)
    bottom, right = plate.top_px + len(plate.pixels), plate.left_px + plate.pixels.shape[1]
    labelled[:shown, plate.top_px : bottom, plate.left_px : right] = plate.pixels
    return labelled


@cache
def plate_for(profile: str, width: int, height: int) -> Plate:
    """Return the label of a profile for frames of a size, for the upper left corner.

    The text is wrapped or shortened before its characters get smaller than can be read, and they
    never get smaller than the 5 % rule. In pictures too small for all of it, the first to go is
    the room left for a face, then legibility.

    Args:
        profile: A key of `TEXTS`.
        width: Of the frames, in pixels.
        height: Of the frames, in pixels.
    """
    capitals = _capital_height()
    least = math.ceil(LEAST_HEIGHT * min(width, height) / capitals)
    wanted, legible = max(least, _WANTED_PX), max(least, _LEGIBLE_PX)
    texts = TEXTS[profile]
    readable = [(lines, size) for lines in texts for size in range(wanted, legible - 1, -1)]
    tiny = [(texts[-1], size) for size in range(legible - 1, least - 1, -1)]
    top, left = _even(SAFE_MARGIN * height), _even(SAFE_MARGIN * width)
    for sizes, fits in ((readable, _leaves_the_centre), (readable, _is_inside), (tiny, _is_inside)):
        for lines, size in sizes:
            plate = Plate(_draw(lines, size), top, left, lines, size * capitals)
            if fits(plate, width, height):
                return plate
    # A picture of hardly more pixels than letters: what of the smallest plate lies in it.
    pixels = _draw(texts[-1], least)[:height, :width]
    return Plate(pixels, 0, 0, texts[-1], least * capitals)


def _is_inside(plate: Plate, width: int, height: int) -> bool:
    """Whether a plate lies in the part of the picture that is safe for text."""
    bottom, right = plate.top_px + plate.pixels.shape[0], plate.left_px + plate.pixels.shape[1]
    return bottom <= height - plate.top_px and right <= width - plate.left_px


def _leaves_the_centre(plate: Plate, width: int, height: int) -> bool:
    """Whether a plate lies inside and leaves the centre free, where faces are."""
    bottom, right = plate.top_px + plate.pixels.shape[0], plate.left_px + plate.pixels.shape[1]
    return _is_inside(plate, width, height) and (bottom <= height // 2 or right <= width // 2)


def _draw(lines: tuple[str, ...], size: int) -> npt.NDArray[np.uint8]:
    """Return a plate with lines of text, RGB uint8 [h, w, 3]; `size` is the em in pixels."""
    import numpy as np
    from PIL import Image, ImageDraw

    font = _font(size)
    boxes = [font.getbbox(line, anchor="ls") for line in lines]
    pad, gap = max(1, size // 4), max(1, size // 8)
    width = 2 * pad + max(math.ceil(right) - math.floor(left) for left, _, right, _ in boxes)
    heights = [math.ceil(bottom) - math.floor(top) for _, top, _, bottom in boxes]
    height = 2 * pad + sum(heights) + gap * (len(lines) - 1)
    # Even sides at even places: the encoder keeps one colour for four pixels.
    picture = Image.new("RGB", (_even(width), _even(height)), _PLATE_RGB)
    draw = ImageDraw.Draw(picture)
    y = pad
    for line, box, line_height in zip(lines, boxes, heights, strict=True):
        draw.text((pad - box[0], y - box[1]), line, fill=_TEXT_RGB, font=font, anchor="ls")
        y += line_height + gap
    return np.asarray(picture, np.uint8)


def _even(number: float) -> int:
    return 2 * math.ceil(number / 2)


@cache
def _capital_height() -> float:
    """Return the height of capital letters as a part of the em."""
    _, top, _, bottom = _font(1000).getbbox("I", anchor="ls")
    return (bottom - top) / 1000


def _font(size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    # The basic layout is in every Pillow; the other one depends on libraries of the system.
    return ImageFont.truetype(FONT, size, layout_engine=ImageFont.Layout.BASIC)
