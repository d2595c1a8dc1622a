"""What a photo says about its subject: the identity embedding and the reference crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lynx_engine.digest import digest_bytes
from lynx_engine.identity.align import identity_crop, reference_crop

if TYPE_CHECKING:
    from lynx_engine.models.arcface import FaceEncoder


@dataclass(frozen=True, slots=True, eq=False)
class SubjectFace:
    """One face, ready for the engine.

    Attributes:
        landmarks: float32 [5, 2], (x, y) in pixels of the photo.
        embedding: Identity embedding, float32 [512], of length 1.
        reference_crop: RGB uint8 [256, 256, 3].
        digest: sha256 over embedding and crop: all the engine makes of the face.
    """

    landmarks: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]
    reference_crop: npt.NDArray[np.uint8]
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Derive `digest`."""
        content = self.embedding.tobytes() + self.reference_crop.tobytes()
        object.__setattr__(self, "digest", digest_bytes(content))


def embed_face(
    photo: npt.NDArray[np.uint8], landmarks: npt.ArrayLike, encoder: FaceEncoder
) -> SubjectFace:
    """Recognise one face of a photo.

    Args:
        photo: RGB uint8 [H, W, 3].
        landmarks: [5, 2], (x, y) in pixels: eyes, nose, mouth corners, left to right.
        encoder: A loaded recogniser.
    """
    points = np.asarray(landmarks, dtype=np.float32)
    return SubjectFace(
        landmarks=points,
        embedding=encoder.embed(identity_crop(photo, points)),
        reference_crop=reference_crop(photo, points),
    )


def mean_face(faces: Sequence[SubjectFace]) -> SubjectFace:
    """Return one face for several photos: the mean of their embeddings, scaled to length 1.

    Args:
        faces: At least one; landmarks and reference crop are the first one's.
    """
    mean = np.mean([face.embedding.astype(np.float64) for face in faces], axis=0)
    return SubjectFace(
        landmarks=faces[0].landmarks,
        embedding=(mean / np.linalg.norm(mean)).astype(np.float32),
        reference_crop=faces[0].reference_crop,
    )
