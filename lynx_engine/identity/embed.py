"""What a photo says about its subject: the identity embedding and the reference crop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lynx_engine.digest import digest_bytes
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.identity.align import identity_crop, reference_crop

if TYPE_CHECKING:
    from lynx_engine.models.arcface import FaceEncoder

SAME_PERSON_COSINE = 0.32
"""Least cosine of two ArcFace embeddings of one person: serengil/deepface takes a cosine distance
of 0.68 as its bound, tuned on LFW. It stands in where a recogniser is uncalibrated."""


@dataclass(frozen=True, slots=True, eq=False)
class SubjectFace:
    """One face, ready for the engine; its text, which may reach a log, tells nothing of it.

    Attributes:
        landmarks: float32 [5, 2], (x, y) in pixels of the photo.
        embedding: Identity embedding, float32 [512], of length 1.
        reference_crop: RGB uint8 [256, 256, 3].
        digest: sha256 over embedding and crop: all the engine makes of the face.
    """

    landmarks: npt.NDArray[np.float32] = field(repr=False)
    embedding: npt.NDArray[np.float32] = field(repr=False)
    reference_crop: npt.NDArray[np.uint8] = field(repr=False)
    digest: str = field(init=False, default="", repr=False)

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
    """Return what several photos of one person say together.

    identity embedding = m / |m|, with m the mean of the photos' unit embeddings. Landmarks and
    reference crop are those of the first photo: a picture cannot be averaged. One photo's face is
    returned as it is.

    Args:
        faces: One for each photo, in the author's order.

    Raises:
        RowError: FACE, if the embeddings cancel each other.
        ValueError: If there is none.
    """
    if not faces:
        raise ValueError("a mean needs at least one face")
    if len(faces) == 1:
        return faces[0]
    mean = np.mean([face.embedding for face in faces], axis=0, dtype=np.float64)
    length = float(np.linalg.norm(mean))
    if length < 1e-6:  # what rounding leaves of unit vectors that cancel
        text = "the photos have nothing in common: their mean is no face. Remove those of others."
        raise RowError(ErrorCode.FACE, text)
    return SubjectFace(
        landmarks=faces[0].landmarks,
        embedding=np.asarray(mean / length, dtype=np.float32),
        reference_crop=faces[0].reference_crop,
    )


def outlier_photos(
    embeddings: Sequence[npt.NDArray[np.float32]],
    *,
    score: Callable[[npt.NDArray[np.float32], npt.NDArray[np.float32]], float],
    least: float,
) -> tuple[int, ...]:
    """Return which photos are unlike the others of the same subject.

    A photo is unlike if it scores below `least` against the mean of all others. Of two photos that
    differ nobody can say which is wrong: both are told.

    Args:
        embeddings: One for each photo, float32 [D], all by one recogniser.
        score: That recogniser's likeness of two embeddings.
        least: The least score at which two faces count as one person.

    Returns:
        Positions in `embeddings`, in order; none for fewer than two.
    """
    if len(embeddings) < 2:
        return ()
    stacked = np.asarray(embeddings, dtype=np.float64)
    # [n, D]: for each photo the mean of all others.
    others = ((stacked.sum(axis=0) - stacked) / (len(stacked) - 1)).astype(np.float32)
    scores = (score(one, other) for one, other in zip(embeddings, others, strict=True))
    # Others that cancel have no direction, and a score that is no number: nothing resembles them.
    return tuple(n for n, value in enumerate(scores) if not value >= least)
