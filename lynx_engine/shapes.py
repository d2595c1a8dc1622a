"""Sizes and the axis letters of arrays. It knows numbers, not models.

Axis letters, used in every docstring: B batch, C channels, T latent frames, h w latent cells,
F frames, H W pixels, L tokens, D width, N heads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True)
class FrameSize:
    """Width and height of a frame, in pixels."""

    width_px: int
    height_px: int

    @classmethod
    def parse(cls, text: str) -> FrameSize:
        """Read `832x480` as width 832, height 480.

        Raises:
            ValueError: If `text` is not two positive whole numbers joined by an x.
        """
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a size; write width x height, as in 832x480")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        """Return the form the manifest uses."""
        return f"{self.width_px}x{self.height_px}"


def latent_frames(frames: int, frame_stride: int) -> int:
    """Return T for F frames: (F - 1) / stride + 1, the first frame standing alone."""
    return (frames - 1) // frame_stride + 1
