"""Cuts the two crops of a face out of its photo. It knows geometry, not networks.

Landmarks: float32 [5, 2], (x, y) in pixels of the photo: eyes, nose, mouth corners, each pair
left to right in the picture. Pictures: RGB uint8 [H, W, 3].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IDENTITY_CROP_PX = 112
REFERENCE_CROP_PX = 256

# (x, y) in the 112 px crop; arXiv 1801.07698, as released with ArcFace.
ARCFACE_TEMPLATE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ],
    dtype=np.float64,
)
ARCFACE_TEMPLATE.setflags(write=False)


def reference_template() -> npt.NDArray[np.float64]:
    """Return the template of the wider reference crop, (x, y) in the 256 px crop.

    The ArcFace template 10 px lower, shrunk to 0.8 about the centre of its square, then carried
    to 256 px by the 128-wide convention: times 256 / 128 with the square 16 px from the left,
    and not times 256 / 112.
    """
    centre = IDENTITY_CROP_PX / 2
    lowered = ARCFACE_TEMPLATE + np.array((0, 10))
    shrunk = centre + 0.8 * (lowered - centre)
    return shrunk * (REFERENCE_CROP_PX / 128) + np.array((16, 0))


def fit_similarity(source: npt.ArrayLike, target: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the similarity that carries `source` onto `target` with the least squared error.

    target = s R source + t, with R a rotation and never a mirror (Umeyama 1991).

    Args:
        source: [n, 2], not all in one place.
        target: [n, 2].

    Returns:
        [2, 3], the matrix [s R | t].
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    a, b = source - source_mean, target - target_mean
    # In the plane the answer is a complex quotient: z = sum(b conj(a)) / sum(|a|^2).
    spread = np.sum(a * a)
    cosine = np.sum(a * b) / spread
    sine = np.sum(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / spread
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([turn, target_mean - turn @ source_mean])


def identity_crop(photo: npt.NDArray[np.uint8], landmarks: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return the recogniser's view of the face, [112, 112, 3], black outside the photo."""
    return _cut(photo, fit_similarity(landmarks, ARCFACE_TEMPLATE), IDENTITY_CROP_PX)


def reference_crop(photo: npt.NDArray[np.uint8], landmarks: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return the reference adapter's wider view, [256, 256, 3], black outside the photo."""
    return _cut(photo, fit_similarity(landmarks, reference_template()), REFERENCE_CROP_PX)


def _cut(
    photo: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64], side_px: int
) -> npt.NDArray[np.uint8]:
    import cv2

    crop = cv2.warpAffine(
        photo,
        matrix,
        (side_px, side_px),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(0, 0, 0),
    )
    return crop.astype(np.uint8, copy=False)
