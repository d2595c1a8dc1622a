"""Several photos of one person: their mean, and the photo that is unlike the others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.identity.embed import SAME_PERSON_COSINE, SubjectFace, mean_face, outlier_photos
from lynx_engine.identity.evaluators import cosine


def at_angle(degrees: float) -> npt.NDArray[np.float32]:
    """A unit embedding in the plane of the first two of 512 axes."""
    embedding = np.zeros(512, np.float32)
    embedding[:2] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return embedding


def face(degrees: float, shade: int = 0) -> SubjectFace:
    return SubjectFace(
        landmarks=np.full((5, 2), shade, np.float32),
        embedding=at_angle(degrees),
        reference_crop=np.full((256, 256, 3), shade, np.uint8),
    )


def test_mean_of_two_directions_is_the_one_halfway_of_length_one() -> None:
    mean = mean_face([face(10, shade=3), face(70, shade=4)])
    assert np.abs(mean.embedding - at_angle(40)).max() < 1e-6
    assert mean.embedding.dtype == np.float32
    assert (mean.reference_crop == 3).all(), "the picture is the first photo's"
    assert (mean.landmarks == 3).all()


def test_order_changes_the_picture_and_not_the_embedding() -> None:
    one, other = mean_face([face(0, 1), face(50, 2)]), mean_face([face(50, 2), face(0, 1)])
    assert np.abs(one.embedding - other.embedding).max() < 1e-7
    assert one.digest != other.digest


def test_one_photo_is_its_own_mean_to_the_last_bit() -> None:
    only = face(33)
    assert mean_face([only]) is only


def test_no_photo_and_photos_that_cancel_have_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_face([])
    with pytest.raises(RowError, match="nothing in common") as caught:
        mean_face([face(0), face(180)])
    assert caught.value.code is ErrorCode.FACE


def unlike(
    embeddings: list[npt.NDArray[np.float32]], *, least: float = SAME_PERSON_COSINE
) -> tuple[int, ...]:
    return outlier_photos(embeddings, score=cosine, least=least)


def test_photo_unlike_the_others_is_found_wherever_it_stands() -> None:
    alike = [at_angle(degrees) for degrees in (0, 10, 20)]
    assert unlike(alike) == ()
    for place in range(4):
        photos = [*alike[:place], at_angle(100), *alike[place:]]
        assert unlike(photos) == (place,)


def test_of_two_photos_that_differ_both_are_told() -> None:
    assert unlike([at_angle(0), at_angle(90)]) == (0, 1)
    assert unlike([at_angle(0), at_angle(60)]) == ()
    assert unlike([at_angle(0)]) == ()
    assert unlike([]) == ()


def test_bound_is_the_cosine_to_the_mean_of_the_others() -> None:
    # cos 71 degrees = 0.326, cos 72 degrees = 0.309: the bound of 0.32 lies between.
    assert unlike([at_angle(0), at_angle(71)]) == ()
    assert unlike([at_angle(0), at_angle(72)]) == (0, 1)
    assert unlike([at_angle(0), at_angle(72)], least=0.3) == ()
