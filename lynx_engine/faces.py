"""The faces of a campaign's subjects: each is embedded once, whoever asks for it.

It knows the pre-flight's landmarks and a pool; which rows need a face is the campaign's business.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.preflight import FaceKey, Preflight, face_keys
from lynx_engine.variants import get_variant
from lynx_engine.worker import FaceRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lynx_engine.identity.detect import Face
    from lynx_engine.identity.embed import SubjectFace
    from lynx_engine.identity.evaluators import Evaluator
    from lynx_engine.identity.score import LikenessTarget
    from lynx_engine.jobs import RenderJob
    from lynx_engine.pool.protocol import Pool

logger = logging.getLogger(__name__)

_LIKENESS_VERSION = 1
"""Counts up when the evaluator is given another view of a photo."""


class SubjectFaces:
    """Embeds faces when they are first needed; safe to use from several threads."""

    def __init__(self, preflight: Preflight, pool: Pool) -> None:
        """Know where the faces are, and who embeds them."""
        self._preflight = preflight
        self._pool = pool
        self._known: dict[tuple[FaceKey, str], SubjectFace] = {}
        self._locks: dict[tuple[FaceKey, str], threading.Lock] = {}
        self._guard = threading.Lock()

    def face_of(self, job: RenderJob, device: str) -> SubjectFace | None:
        """Return the job's face, embedded once for all jobs that share photo and recogniser.

        Args:
            job: The request.
            device: Where to embed a face that is not known yet.

        Raises:
            RowError: As `Pool.embed_face`.
        """
        if not job.photos:
            return None
        return self._photo_face(job, job.photos[0], face_keys(job)[0], device)

    def _photo_face(self, job: RenderJob, photo: Path, face: FaceKey, device: str) -> SubjectFace:
        key = (face, get_variant(job.variant).face_encoder)
        with self._guard:
            embedding = self._locks.setdefault(key, threading.Lock())
        if key in self._known:
            return self._known[key]
        if not embedding.acquire(blocking=False):
            # Another device embeds this face; this one loads its model meanwhile.
            self._pool.load(device, job.variant, job.precision)
            embedding.acquire()
        try:
            if key not in self._known:
                request = FaceRequest(
                    variant=job.variant,
                    precision=job.precision,
                    photo=photo.resolve(),
                    photo_digest=face[0],
                    landmarks=self._preflight.landmarks[face],
                )
                self._known[key] = self._pool.embed_face(device, request)
        finally:
            embedding.release()
        return self._known[key]


class EmbeddingCache(Protocol):
    """Where embeddings outlive a run, as `identity.vault.Vault` keeps them."""

    def get(self, photo_digest: str, entry: str) -> bytes | None:
        """Return what was put there, None if there is nothing, or nothing whole."""
        ...

    def put(self, photo_digest: str, entry: str, data: bytes, *, name: str) -> None:
        """Keep `data` of the subject `name`."""
        ...


class SubjectLikeness:
    """Embeds subject photos for the evaluator, each once; safe to use from several threads.

    Attributes:
        embedded: Photos that the evaluator was run on.
    """

    def __init__(
        self, preflight: Preflight, setting: str, *, cache: EmbeddingCache | None = None
    ) -> None:
        """Know where the faces are, and who scores.

        Args:
            preflight: Where each face is in its photo.
            setting: The evaluator, as `choose_evaluator` understands it.
            cache: Where embeddings outlive the run; None keeps them for this run.

        Raises:
            RefusedError: If that evaluator is not installed.
        """
        from lynx_engine.identity.evaluators import choose_evaluator, resolve_setting

        self.embedded = 0
        self._preflight = preflight
        self._setting = resolve_setting(setting)
        self._evaluator = choose_evaluator(self._setting)
        self._cache = cache
        self._known: dict[FaceKey, npt.NDArray[np.float32]] = {}
        self._guard = threading.Lock()

    def likeness_of(self, job: RenderJob) -> LikenessTarget | None:
        """Return whom the job's clip shall resemble, None if it has no subject or nobody scores.

        The embedding of several photos is the mean of theirs.

        Raises:
            RowError: SCORE, if the job has an identity gate and its photos cannot be embedded.
                Without a gate that is said in the log.
        """
        import numpy as np

        from lynx_engine.identity.score import LikenessTarget

        evaluator = self._evaluator
        if evaluator is None or not job.photos:
            return None
        try:
            with self._guard:
                embeddings = [
                    self._embedding(evaluator, job.subject, photo, key)
                    for photo, key in zip(job.photos, face_keys(job), strict=True)
                ]
        except Exception as error:
            if job.gate:
                raise RowError(
                    ErrorCode.SCORE,
                    f"the identity gate waits for a score, and subject '{job.subject}' cannot be "
                    f"recognised by {evaluator.name}: {error}",
                ) from error
            logger.warning("nobody scores subject '%s': %s", job.subject, error)
            return None
        mean = np.stack(embeddings).mean(axis=0)
        return LikenessTarget(self._setting, evaluator.name, mean)

    def _embedding(
        self, evaluator: Evaluator, subject: str, photo: Path, key: FaceKey
    ) -> npt.NDArray[np.float32]:
        """Return the evaluator's embedding of one face; called by one thread at a time."""
        import numpy as np

        if key in self._known:
            return self._known[key]
        digest, choice = key
        entry = _entry(evaluator, choice)
        kept = None if self._cache is None else self._cache.get(digest, entry)
        if kept is not None:
            embedding = np.frombuffer(kept, np.float32)
        else:
            embedding = self._embed(evaluator, photo, key)
            self.embedded += 1
            logger.info("the evaluator recognised a photo of subject '%s'", subject)
            if self._cache is not None:
                self._cache.put(digest, entry, embedding.tobytes(), name=subject)
        self._known[key] = embedding
        return embedding

    def _embed(self, evaluator: Evaluator, photo: Path, key: FaceKey) -> npt.NDArray[np.float32]:
        import numpy as np

        from lynx_engine.identity.detect import choose_face, find_faces
        from lynx_engine.media.images import inspect_photo, read_photo

        if inspect_photo(photo).digest != key[0]:
            text = f"{photo} changed after the campaign was planned. Run the command again."
            raise RowError(ErrorCode.IMAGE, text)
        picture = read_photo(photo)
        faces = find_faces(picture)
        if faces and key in self._preflight.landmarks:
            face = _nearest(faces, self._preflight.landmarks[key])
        else:
            face = choose_face(faces, key[1])
        embedding = evaluator.embed(picture, face).astype(np.float32)
        if not np.isfinite(embedding).all():
            text = f"{evaluator.name} made an embedding of {photo} that holds NaN."
            raise RowError(ErrorCode.SCORE, text)
        return embedding


def _entry(evaluator: Evaluator, choice: str) -> str:
    """Return the text that names all that an embedding depends on, beside the photo."""
    from lynx_engine.identity.detect import detector_name

    return f"likeness {_LIKENESS_VERSION}; {evaluator.name}; {detector_name()}; face {choice}"


def _nearest(faces: Sequence[Face], landmarks: npt.NDArray[np.float32]) -> Face:
    """Return the face whose landmarks lie nearest to those of the pre-flight."""
    return min(faces, key=lambda face: float(abs(face.landmarks - landmarks).max()))
