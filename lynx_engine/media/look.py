"""What a clip looks like whoever is in it: motion, standstill, flicker, sharpness.

It knows frames and OpenCV, and no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lynx_engine.results import Look

Frames = npt.NDArray[np.uint8]

# Flow and changes are looked at in a picture this long: of pans of 0.05 to 8 px a frame (832x480,
# crf 23) the mean flow told them within 15 %, and above 0.2 px within 4 %.
LONG_SIDE_PX = 256
# OpenCV 5.0's dense inverse search ends the process in pictures 12 px high; 16 px are fine.
SHORT_SIDE_PX = 32
# Mean change of luma, 0 to 255. Still photos and noise, encoded at crf 0 to 35, changed by 0.12 at
# most; a pan of 0.05 px a frame, which nobody sees, by 0.9 in half a second.
STILL_LUMA = 0.3
FROZEN_S = 0.5
# Mean luma of a pan of up to 8 px a frame changes by 0.9 from one frame to the next at most.
JUMP_LUMA = 2.5
# As often as WCAG 2.3 counts flashes: three in a second.
FLICKER_JUMPS = 3
SHARPNESS_FRAMES = 16


def spread(count: int, most: int) -> list[int]:
    """Return `most` indices at most of `count` frames, evenly spread, the first and last with them.

    Of one frame, that one.
    """
    return sorted({round(i) for i in np.linspace(0, count - 1, min(most, count))})


def look_at(frames: Frames, fps: float) -> Look:
    """Look at a clip; 81 frames of 832x480 take 0.5 s on one core.

    Args:
        frames: RGB uint8 [F, H, W, 3], one at least.
        fps: Frames a second.
    """
    small = _small_luma(frames)
    return Look(
        motion=_motion(small, fps),
        frozen=_is_frozen(small, fps),
        flicker=_flickers(small, fps),
        sharpness=_sharpness(frames),
    )


def _small_luma(frames: Frames) -> list[Frames]:
    """Return luma, uint8 [h, w] each, the longer side `LONG_SIDE_PX` at most.

    A side that would be shorter than `SHORT_SIDE_PX` is stretched to it.
    """
    import cv2

    height, width = frames.shape[1:3]
    scale = min(1.0, LONG_SIDE_PX / max(height, width))
    size = (max(SHORT_SIDE_PX, round(width * scale)), max(SHORT_SIDE_PX, round(height * scale)))
    # Means over areas: what the encoder does to single pixels must not look like motion.
    return [
        cv2.resize(_luma(frame), size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        for frame in frames
    ]


def _luma(frame: Frames) -> Frames:
    import cv2

    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def _motion(luma: Sequence[Frames], fps: float) -> float:
    """Return mean |flow| over pixels and pairs, in short sides of the picture a second.

    motion = mean |flow| fps / min(h, w): a pan over one whole short side a second is 1.
    """
    import cv2

    if len(luma) < 2:
        return 0.0
    # Dense inverse search (arXiv 1603.03590): 2 to 4 ms a pair, and closer than Farneback's, which
    # told 13 % too little of a pan of 8 px.
    # OpenCV's own types know no call without a flow to begin from.
    flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    lengths = [
        float(np.linalg.norm(flow.calc(before, after, None), axis=-1).mean())
        for before, after in pairwise(luma)
    ]
    return float(np.mean(lengths)) * fps / min(luma[0].shape)


def _is_frozen(luma: Sequence[Frames], fps: float) -> bool:
    """Whether the picture stays as it is for half a second, or from the first frame to the last.

    Each frame is compared with the one that the standstill began with, so that a slow pan is none.
    """
    if len(luma) < 2:
        return False
    start = 0
    for now in range(1, len(luma)):
        if _change(luma[start], luma[now]) >= STILL_LUMA:
            start = now
        elif (now - start) / fps >= FROZEN_S:
            return True
    return start == 0


def _change(a: Frames, b: Frames) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())


def _flickers(luma: Sequence[Frames], fps: float) -> bool:
    """Whether brightness jumps up and down again `FLICKER_JUMPS` times within a second."""
    brightness = np.array([picture.mean() for picture in luma])
    jumps = np.diff(brightness)
    turns = jumps[:-1] * jumps[1:] < 0
    turns &= np.minimum(abs(jumps[:-1]), abs(jumps[1:])) >= JUMP_LUMA
    window = max(FLICKER_JUMPS, round(fps))
    counts = np.convolve(turns, np.ones(window), mode="full") if len(turns) else np.zeros(1)
    return bool(counts.max() >= FLICKER_JUMPS)


def _sharpness(frames: Frames) -> float:
    """Return the variance of the Laplacian of luma, mean over evenly spread frames."""
    import cv2

    chosen = spread(len(frames), SHARPNESS_FRAMES)
    return float(np.mean([cv2.Laplacian(_luma(frames[i]), cv2.CV_32F).var() for i in chosen]))
