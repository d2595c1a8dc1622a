"""Measures of a subject photo: each against what was done to the picture, or a second reckoning."""

from __future__ import annotations

import io
import itertools
import pickle
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from lynx_engine.identity import quality
from lynx_engine.identity.align import ARCFACE_TEMPLATE
from lynx_engine.identity.detect import Face
from lynx_engine.identity.found import look_at
from lynx_engine.identity.quality import (
    FaceMeasures,
    advice_on,
    hash_distance,
    head_turn,
    look_alikes,
    measure_face,
    photo_hash,
)
from tests.support.photos import Pixels, group_photo, mean_head, other_portrait, pixels
from tests.support.renders import ASTRONAUT_LANDMARKS, astronaut

PORTRAIT = Face((184, 68, 271, 172), ASTRONAUT_LANDMARKS, 1.0)


def of_portrait(photo: Pixels) -> FaceMeasures:
    """Measure a copy of the portrait whose face is where it was."""
    return measure_face(photo, PORTRAIT)


def blurred(photo: Pixels, sigma: float) -> Pixels:
    return cv2.GaussianBlur(photo, (0, 0), sigma).astype(np.uint8, copy=False)


def times(photo: Pixels, factor: float) -> Pixels:
    return np.clip(photo * factor, 0, 255).astype(np.uint8)


@cache
def people() -> dict[str, FaceMeasures]:
    """The eight faces that the tests' packages hold, and the portrait."""
    group = look_at(pixels(group_photo())).measures
    (other,) = look_at(pixels(other_portrait())).measures
    assert len(group) == 6
    found = {f"guest {number}": measures for number, measures in enumerate(group)}
    return {**found, "other": other, "portrait": of_portrait(astronaut())}


def turned_head(degrees: float) -> npt.NDArray[np.float64]:
    """Five landmarks of the mean head, turned about the vertical, seen from afar."""
    # The data of an installed package; it holds one array.
    shape = np.asarray(pickle.loads(mean_head().read_bytes()), np.float64)
    eyes = shape[36:42].mean(axis=0), shape[42:48].mean(axis=0)
    points = np.stack([*eyes, shape[30], shape[48], shape[54]])
    angle = np.radians(degrees)
    x = points[:, 0] * np.cos(angle) + points[:, 2] * np.sin(angle)
    return np.column_stack([x, points[:, 1]])


def rotated(points: npt.NDArray[np.float64], degrees: float) -> npt.NDArray[np.float64]:
    """Points turned clockwise in a picture, whose y grows downwards."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T


@pytest.mark.parametrize("degrees", [-40, -20, 0, 15, 40])
def test_turn_of_a_mean_head_is_the_angle_it_was_turned_by(degrees: float) -> None:
    turn, _ = head_turn(turned_head(degrees))
    assert turn == pytest.approx(degrees, abs=3)


@pytest.mark.parametrize("degrees", [-75, -20, 0, 10, 45])
def test_tilt_is_the_angle_the_picture_was_rotated_by_and_leaves_the_turn(degrees: float) -> None:
    turn, tilt = head_turn(ARCFACE_TEMPLATE)
    assert (turn, tilt) == pytest.approx((0, 0), abs=1)
    for head in (0, 25):
        straight = head_turn(turned_head(head))
        leaning = head_turn(rotated(turned_head(head), degrees))
        assert leaning[1] - straight[1] == pytest.approx(degrees, abs=1e-6)
        assert leaning[0] == pytest.approx(straight[0], abs=1e-6)


def test_mirrored_photo_is_turned_and_leans_the_other_way() -> None:
    photo = pixels(other_portrait())
    (face,) = look_at(photo).measures
    (mirrored,) = look_at(np.ascontiguousarray(photo[:, ::-1])).measures
    assert face.turn_deg == pytest.approx(26, abs=4), "he looks to the right of the picture"
    # What is left is the detector's: it sees another picture.
    assert mirrored.turn_deg == pytest.approx(-face.turn_deg, abs=6)
    assert mirrored.tilt_deg == pytest.approx(-face.tilt_deg, abs=4)
    points = ASTRONAUT_LANDMARKS * (-1, 1) + (512, 0)
    mirrored_points = points[[1, 0, 2, 4, 3]]
    turn, tilt = head_turn(ASTRONAUT_LANDMARKS)
    assert head_turn(mirrored_points) == pytest.approx((-turn, -tilt))


def test_landmarks_in_one_place_say_nothing() -> None:
    assert head_turn(np.full((5, 2), 7.0)) == (0.0, 0.0)


def test_sharpness_falls_with_every_blur_and_its_bound_lies_at_the_measured_place() -> None:
    photo = astronaut()
    seen = [of_portrait(blurred(photo, sigma)).sharpness for sigma in (0.5, 1, 1.5, 2, 3)]
    assert of_portrait(photo).sharpness > seen[0]
    assert seen == sorted(seen, reverse=True)
    assert seen[1] > quality.BLURRED > seen[2]


def test_sharpness_is_the_ratio_of_two_variances_that_numpy_gives_too() -> None:
    # A crop that is the photo: the landmarks are the template's own.
    rng = np.random.default_rng(0)
    photo = blurred(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8), 1.0)
    face = Face((0, 0, 112, 112), ARCFACE_TEMPLATE.astype(np.float32), 1.0)
    luma = np.rint(photo @ np.array([0.299, 0.587, 0.114]))
    edges = (
        luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * luma[1:-1, 1:-1]
    )
    inner = np.s_[32:104, 20:92]
    expected = edges[31:103, 19:91].var() / luma[inner].var()
    measured = measure_face(photo, face)
    assert measured.sharpness == pytest.approx(expected, rel=0.02)
    assert measured.mean_luma == pytest.approx(luma[inner].mean(), abs=0.1)


def test_sharpness_is_the_same_in_a_darker_copy() -> None:
    # Rounding to whole levels adds some edges.
    half = of_portrait(times(astronaut(), 0.5)).sharpness
    assert half == pytest.approx(of_portrait(astronaut()).sharpness, rel=0.1)


def test_blank_face_has_no_sharpness_and_is_all_black_or_white() -> None:
    black = of_portrait(np.zeros_like(astronaut()))
    assert (black.sharpness, black.mean_luma, black.dark_share, black.bright_share) == (0, 0, 1, 0)
    white = of_portrait(np.full_like(astronaut(), 255))
    assert (white.mean_luma, white.dark_share, white.bright_share) == (255, 0, 1)


def test_brightness_is_told_as_it_was_changed() -> None:
    plain = of_portrait(astronaut())
    assert of_portrait(times(astronaut(), 0.5)).mean_luma == pytest.approx(
        plain.mean_luma / 2, abs=1
    )
    assert plain.bright_share < 0.05 < of_portrait(times(astronaut(), 1.6)).bright_share


def words(measures: FaceMeasures) -> list[str]:
    return [advice.word for advice in advice_on(measures)]


def test_a_good_portrait_gets_no_advice_and_each_fault_its_own_word() -> None:
    photo = astronaut()
    assert words(of_portrait(photo)) == []
    assert words(of_portrait(blurred(photo, 2))) == ["blurred"]
    assert words(of_portrait(times(photo, 0.15))) == ["dark"]
    assert "burnt-out" in words(of_portrait(times(photo, 1.8)))
    plain = of_portrait(photo)
    assert words(replace(plain, turn_deg=-46.0)) == ["turned"]
    assert words(replace(plain, tilt_deg=40.0)) == ["leaning"]
    assert words(replace(plain, size_px=45.0)) == ["small"]


def test_advice_says_what_is_wrong_and_what_to_do() -> None:
    (advice,) = advice_on(replace(of_portrait(astronaut()), turn_deg=-46.2))
    assert advice.text == (
        "the head is turned about 46 degrees to the left of the picture. Use a photo from the "
        "front."
    )


def test_sharp_faces_of_real_photos_are_not_called_blurred_or_dark() -> None:
    told = {name: words(measures) for name, measures in people().items()}
    assert not {"blurred", "dark", "burnt-out"} & set(itertools.chain(*told.values())), told
    assert [name for name, found in told.items() if "turned" in found] == ["guest 4"]


def copies(photo: Pixels) -> dict[str, Pixels]:
    """The same picture as other people's programs leave it."""
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=60)
    height, width = photo.shape[:2]
    small = cv2.resize(photo, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    large = cv2.resize(photo, (width * 2, height * 2), interpolation=cv2.INTER_CUBIC)
    return {
        "half": small.astype(np.uint8, copy=False),
        "double": large.astype(np.uint8, copy=False),
        "jpeg": np.asarray(Image.open(file), np.uint8),
        "darker": times(photo, 0.5),
        "brighter": times(photo, 1.2),
        "blurred": blurred(photo, 1.5),
    }


@pytest.mark.parametrize("name", ["half", "double", "jpeg", "darker", "brighter", "blurred"])
def test_copy_of_a_photo_is_known_again_by_photo_and_face(name: str) -> None:
    copy = copies(astronaut())[name]
    (face,) = look_at(copy).measures
    plain = of_portrait(astronaut())
    assert hash_distance(photo_hash(copy), photo_hash(astronaut())) <= quality.SAME_PHOTO_BITS
    assert hash_distance(face.face_hash, plain.face_hash) <= quality.SAME_FACE_BITS


def test_other_crop_of_a_photo_is_known_again_by_the_face_alone() -> None:
    crop = np.ascontiguousarray(astronaut()[20:300, 80:400])
    (face,) = look_at(crop).measures
    assert hash_distance(photo_hash(crop), photo_hash(astronaut())) > quality.SAME_PHOTO_BITS
    distance = hash_distance(face.face_hash, of_portrait(astronaut()).face_hash)
    assert distance <= quality.SAME_FACE_BITS


def test_two_people_never_look_alike() -> None:
    hashes = [measures.face_hash for measures in people().values()]
    assert min(hash_distance(*pair) for pair in itertools.combinations(hashes, 2)) > 75
    assert look_alikes(hashes, quality.SAME_FACE_BITS) == ()
    photos = [photo_hash(pixels(path)) for path in (group_photo(), other_portrait())]
    assert all(hash_distance(one, photo_hash(astronaut())) > 25 for one in photos)


def test_hash_has_a_bit_for_each_rise_in_brightness_to_the_right() -> None:
    # 9 x 8 cells of 4 px: brighter to the right in the upper half, darker in the lower one.
    row = np.repeat(np.arange(9, dtype=np.uint8) * 20, 4)
    luma = np.concatenate([np.tile(row, (16, 1)), np.tile(row[::-1], (16, 1))])
    assert photo_hash(np.dstack([luma] * 3)) == 0xFFFFFFFF00000000


def test_look_alikes_are_the_pairs_that_counting_bits_one_by_one_finds() -> None:
    rng = np.random.default_rng(3)
    hashes = [int.from_bytes(rng.bytes(32), "big") for _ in range(20)]
    hashes += [hashes[4] ^ 0b1011, hashes[7] ^ (1 << 255)]
    slow = [
        (a, b)
        for a, b in itertools.combinations(range(len(hashes)), 2)
        if bin(hashes[a] ^ hashes[b]).count("1") <= 3
    ]
    assert list(look_alikes(hashes, 3)) == slow == [(4, 20), (7, 21)]
    assert look_alikes([], 3) == ()
    assert look_alikes([5], 3) == ()
