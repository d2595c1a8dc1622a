"""What a clip looks like, of clips whose motion, brightness and sharpness are known."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from lynx_engine.media.look import SHORT_SIDE_PX, look_at, spread
from tests.support.renders import astronaut

Frames = npt.NDArray[np.uint8]

FPS = 16.0


def panned(step_px: float, *, frames: int = 9, width: int = 416, height: int = 240) -> Frames:
    """A window that moves over a photo by `step_px` a frame."""
    photo = cv2.resize(astronaut(), (700, 700))
    at = [np.array([[1, 0, -n * step_px], [0, 1, 0]], np.float64) for n in range(frames)]
    moved = [cv2.warpAffine(photo, matrix, (700, 700)) for matrix in at]
    return np.stack([m[40 : 40 + height, 20 : 20 + width] for m in moved]).astype(np.uint8)


def lit(brightness: Callable[[int], float], *, frames: int = 17) -> Frames:
    """A photo under light that changes."""
    photo = cv2.resize(astronaut(), (128, 128)).astype(np.float64)
    return np.stack([(photo * brightness(n)).clip(0, 255) for n in range(frames)]).astype(np.uint8)


@pytest.mark.parametrize("step_px", [0.25, 1, 3, 8])
def test_motion_is_what_the_picture_was_moved_by(step_px: float) -> None:
    look = look_at(panned(step_px), FPS)
    assert look.motion == pytest.approx(step_px * FPS / 240, rel=0.08), look
    assert not look.frozen


def test_motion_does_not_depend_on_the_resolution_or_the_direction() -> None:
    small = panned(2)
    large = np.stack([cv2.resize(frame, None, fx=2, fy=2) for frame in small]).astype(np.uint8)
    upright = np.ascontiguousarray(small.transpose(0, 2, 1, 3))
    expected = look_at(small, FPS).motion
    assert look_at(large, FPS).motion == pytest.approx(expected, rel=0.05)
    assert look_at(upright, FPS).motion == pytest.approx(expected, rel=0.05)
    assert look_at(small, 2 * FPS).motion == pytest.approx(2 * expected)


def test_still_picture_has_no_motion_and_is_frozen() -> None:
    look = look_at(lit(lambda _: 1), FPS)
    assert look.motion < 1e-3
    assert look.frozen


@pytest.mark.parametrize(("still", "frozen"), [(6, False), (8, True)])
def test_tail_that_stands_still_for_half_a_second_is_frozen(still: int, frozen: bool) -> None:
    moving = panned(3)
    tail = np.repeat(moving[-1:], still, axis=0)
    assert look_at(np.concatenate([moving, tail]), FPS).frozen is frozen


def test_pan_so_slow_that_no_two_frames_differ_is_not_frozen() -> None:
    slow = panned(0.05, frames=17)
    assert np.abs(slow[1].astype(int) - slow[0]).mean() < 0.5
    assert not look_at(slow, FPS).frozen


def test_two_frames_that_are_one_are_frozen_and_a_single_frame_is_a_picture() -> None:
    picture = panned(0, frames=1)
    assert look_at(np.repeat(picture, 2, axis=0), FPS).frozen
    look = look_at(picture, FPS)
    assert (look.motion, look.frozen, look.flicker) == (0, False, False)


@pytest.mark.parametrize(
    ("brightness", "flickers"),
    [
        (lambda n: 1 - 0.1 * (n % 2), True),
        (lambda n: 1 - n / 20, False),
        (lambda n: 1 - 0.3 * (n == 8), False),
        (lambda n: 1 - 0.3 * (n >= 8), False),
        (lambda n: 1 - 0.01 * (n % 2), False),
    ],
    ids=["alternating", "fade", "one flash", "a cut", "too little to see"],
)
def test_only_brightness_that_jumps_up_and_down_flickers(
    brightness: Callable[[int], float], flickers: bool
) -> None:
    assert look_at(lit(brightness), FPS).flicker is flickers


def test_pan_does_not_flicker() -> None:
    assert not look_at(panned(8), FPS).flicker


def test_blur_lowers_sharpness() -> None:
    sharp = panned(1)
    values = [
        look_at(np.stack([cv2.GaussianBlur(f, (0, 0), sigma) for f in sharp]), FPS).sharpness
        for sigma in (0.6, 1.2, 2.4)
    ]
    assert look_at(sharp, FPS).sharpness > values[0] > values[1] > values[2] > 0


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    level = np.zeros((8, 8), np.uint8)
    level[4, 4] = 100
    # By hand: 4 neighbours of 100, -400 in the middle; mean 0.
    variance = (4 * 100**2 + 400**2) / 64
    picture = np.repeat(level[None, ..., None], 3, axis=-1)
    assert look_at(picture, FPS).sharpness == pytest.approx(variance)


@pytest.mark.parametrize("size", [(16, 16), (16, 832), (832, 16), (32, 32)])
def test_pictures_of_any_size_are_looked_at(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    assert 0 < look_at(noise, FPS).motion < float("inf")
    assert SHORT_SIDE_PX > 12, "OpenCV's flow ends the process in pictures of 12 px"


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 81, 121])
def test_frames_are_spread_evenly_with_first_and_last(count: int) -> None:
    chosen = spread(count, 16)
    assert len(chosen) == min(count, 16)
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
