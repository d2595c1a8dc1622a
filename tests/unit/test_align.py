"""Face geometry, against similarities built by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lynx_engine.identity.align import (
    ARCFACE_TEMPLATE,
    fit_similarity,
    identity_crop,
    reference_crop,
    reference_template,
)


@pytest.mark.parametrize("angle_deg", [0, 17, 90, 180, -120])
@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
def test_fit_recovers_a_known_similarity(angle_deg: float, scale: float) -> None:
    angle = math.radians(angle_deg)
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    known = np.array([[c, -s, 31.0], [s, c, -7.5]])
    target = ARCFACE_TEMPLATE @ known[:, :2].T + known[:, 2]
    np.testing.assert_allclose(fit_similarity(ARCFACE_TEMPLATE, target), known, atol=1e-9)


def test_fit_is_the_least_squares_one() -> None:
    generator = np.random.default_rng(3)
    source = generator.normal(size=(5, 2)) * 40
    target = generator.normal(size=(5, 2)) * 40
    # The same problem as linear equations in (a, b, tx, ty) of the matrix [[a, -b], [b, a]].
    rows: list[list[float]] = []
    for x, y in source:
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), target.ravel(), rcond=None)[0]
    np.testing.assert_allclose(fit_similarity(source, target), [[a, -b, tx], [b, a, ty]], atol=1e-9)


def test_mirrored_landmarks_are_turned_and_never_mirrored() -> None:
    mirrored = ARCFACE_TEMPLATE * np.array((-1, 1))
    assert np.linalg.det(fit_similarity(mirrored, ARCFACE_TEMPLATE)[:, :2]) > 0


def test_landmarks_on_the_template_leave_the_picture_as_it_is() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    difference = identity_crop(photo, ARCFACE_TEMPLATE).astype(int) - photo
    assert np.abs(difference).max() <= 1


def test_reference_template_follows_the_128_wide_convention() -> None:
    # 56 + 0.8 (38.2946 - 56) = 41.83568; doubled and moved: 99.67136. 256 / 112 would give 95.6.
    # 56 + 0.8 (51.6963 + 10 - 56) = 60.55704; doubled: 121.11408.
    np.testing.assert_allclose(reference_template()[0], (99.67136, 121.11408), atol=1e-9)


def test_outside_of_the_photo_is_black() -> None:
    photo = np.full((112, 112, 3), 255, np.uint8)
    crop = identity_crop(photo, ARCFACE_TEMPLATE - np.array((60, 0)))
    assert (crop[:, :55] == 0).all()
    assert (crop[:, 65:] == 255).all()


def test_reference_crop_shows_more_around_the_face() -> None:
    photo = np.zeros((400, 400, 3), np.uint8)
    landmarks = ARCFACE_TEMPLATE + np.array((144, 144))
    photo[144:256, 144:256] = 255
    assert (identity_crop(photo, landmarks) > 0).mean() > 0.97
    wide = reference_crop(photo, landmarks)
    assert wide.shape == (256, 256, 3)
    # The square is 0.8 * 2 * 112 px wide there.
    assert (wide > 0).mean() == pytest.approx((0.8 * 2 * 112 / 256) ** 2, abs=0.02)
