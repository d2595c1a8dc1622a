"""The faces of a campaign's subjects: each is embedded once, for all campaigns of a workspace.

What is not in memory is sought in the vault; what is not there, the pool embeds. It knows the
pre-flight's landmarks; which rows need a face is the campaign's business.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lynx_engine.digest import digest_bytes, digest_mapping
from lynx_engine.errors import ErrorCode, RefusedError, RowError
from lynx_engine.identity.align import REFERENCE_CROP_PX
from lynx_engine.preflight import FaceKey, Preflight, face_keys
from lynx_engine.provenance.environment import read_environment
from lynx_engine.variants import get_variant
from lynx_engine.weights.fingerprint import encoder_fingerprint
from lynx_engine.worker import FaceRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lynx_engine.identity.detect import Face
    from lynx_engine.identity.embed import SubjectFace
    from lynx_engine.identity.evaluators import Evaluator
    from lynx_engine.identity.score import LikenessTarget
    from lynx_engine.identity.vault import Vault
    from lynx_engine.jobs import RenderJob
    from lynx_engine.pool.protocol import Pool
    from lynx_engine.settings import Settings

logger = logging.getLogger(__name__)

PREPROCESSING = 1
"""Goes up with every change to how a crop is cut, scaled or ordered: old entries then miss."""

_LANDMARKS = (5, 2)
_CROP = (REFERENCE_CROP_PX, REFERENCE_CROP_PX, 3)
_LANDMARK_BYTES = 40
_CROP_BYTES = REFERENCE_CROP_PX * REFERENCE_CROP_PX * 3

_LIKENESS_VERSION = 1
"""Counts up when the evaluator is given another view of a photo."""


class SubjectFaces:
    """Embeds faces when they are first needed; safe to use from several threads."""

    def __init__(
        self, preflight: Preflight, pool: Pool, *, vault: Vault, settings: Settings
    ) -> None:
        """Know where the faces are, who embeds them, and where they are kept."""
        self._preflight = preflight
        self._pool = pool
        self._vault = vault
        self._settings = settings
        self._known: dict[tuple[FaceKey, str], SubjectFace] = {}
        self._combined: dict[tuple[tuple[FaceKey, ...], str], SubjectFace] = {}
        self._locks: dict[tuple[FaceKey, str], threading.Lock] = {}
        self._encoders: dict[str, str] = {}
        self._named: set[tuple[str, str]] = set()
        self._guard = threading.Lock()

    def face_of(self, job: RenderJob, device: str) -> SubjectFace | None:
        """Return the job's face, embedded once for all jobs that share photos and recogniser.

        Args:
            job: The request.
            device: Where to embed a face that is not known yet.

        Returns:
            The face of its photo, of several photos their mean; None without a subject.

        Raises:
            RowError: As `Pool.embed_face`.
        """
        if not job.photos:
            return None
        keys = face_keys(job)
        faces = [
            self._photo_face(job, photo, key, device)
            for photo, key in zip(job.photos, keys, strict=True)
        ]
        self._remember_name(job)
        if len(faces) == 1:
            return faces[0]
        from lynx_engine.identity.embed import mean_face

        combined = (keys, get_variant(job.variant).face_encoder)
        with self._guard:
            if combined not in self._combined:
                self._combined[combined] = mean_face(faces)
            return self._combined[combined]

    def _remember_name(self, job: RenderJob) -> None:
        """Let `forget` find the photos by what this job calls their subject."""
        for digest in job.photo_digests:
            if (digest, job.subject) in self._named:
                continue
            self._named.add((digest, job.subject))
            try:
                self._vault.remember(digest, job.subject)
            except (OSError, RefusedError) as error:
                logger.warning("the name %s is not remembered: %s", job.subject, error)

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
                self._known[key] = self._kept_or_embedded(job, photo, face, device)
        finally:
            embedding.release()
        return self._known[key]

    def _kept_or_embedded(
        self, job: RenderJob, photo: Path, face: FaceKey, device: str
    ) -> SubjectFace:
        landmarks = self._preflight.landmarks[face]
        entry = self._entry(job, face, landmarks, device)
        if entry and (kept := self._look_up(face[0], entry, job.subject)) is not None:
            logger.info("the face of %s was known", job.subject)
            return kept
        request = FaceRequest(
            variant=job.variant,
            precision=job.precision,
            photo=photo.resolve(),
            photo_digest=face[0],
            landmarks=landmarks,
        )
        found = self._pool.embed_face(device, request)
        logger.info("the face of %s was recognised on %s", job.subject, device)
        if entry:
            self._keep(face[0], entry, found, job.subject)
        return found

    def _entry(
        self, job: RenderJob, face: FaceKey, landmarks: npt.NDArray[np.float32], device: str
    ) -> str:
        """Return the text of everything a face depends on beside its photo, "" if not all is known.

        Whoever embeds it is part of it, as far as it moves the last bit: a clip must not depend on
        where its subject was seen first.
        """
        spec = get_variant(job.variant)
        try:
            if spec.name not in self._encoders:
                fingerprint = encoder_fingerprint(spec, self._settings.models_dir)
                self._encoders[spec.name] = fingerprint
        except RowError as error:
            logger.warning("the face of %s is not kept: %s", job.subject, error)
            return ""
        return "face " + digest_mapping(
            {
                "detector": job.face_detector,
                "encoder": self._encoders[spec.name],
                "choice": face[1],
                "landmarks": digest_bytes(landmarks.tobytes()),
                "preprocessing": PREPROCESSING,
                "device": device.partition(":")[0],
                "threads": self._settings.threads,
                **_libraries(),
            }
        )

    def _look_up(self, digest: str, entry: str, name: str) -> SubjectFace | None:
        try:
            data = self._vault.get(digest, entry)
        except (OSError, RefusedError) as error:
            logger.warning("the face of %s is not looked up: %s", name, error)
            return None
        return None if data is None else unpack_face(data)

    def _keep(self, digest: str, entry: str, face: SubjectFace, name: str) -> None:
        # What cannot be kept is computed again; a full disk stops the campaign where it matters.
        try:
            self._vault.put(digest, entry, pack_face(face), name=name)
        except (OSError, RefusedError) as error:
            logger.warning("the face of %s is not kept: %s", name, error)


def pack_face(face: SubjectFace) -> bytes:
    """Return a face as bytes: landmarks, crop, embedding; numbers little-endian, in 4 bytes."""
    return b"".join(
        (
            face.landmarks.astype("<f4", copy=False).tobytes(),
            face.reference_crop.tobytes(),
            face.embedding.astype("<f4", copy=False).tobytes(),
        )
    )


def unpack_face(data: bytes) -> SubjectFace:
    """Return the face that `pack_face` made into bytes, equal to the last bit."""
    import numpy as np

    from lynx_engine.identity.embed import SubjectFace

    landmarks, rest = data[:_LANDMARK_BYTES], data[_LANDMARK_BYTES:]
    crop, embedding = rest[:_CROP_BYTES], rest[_CROP_BYTES:]
    # Copies: torch warns of arrays that cannot be written to.
    return SubjectFace(
        landmarks=np.frombuffer(landmarks, "<f4").reshape(_LANDMARKS).astype(np.float32),
        embedding=np.frombuffer(embedding, "<f4").astype(np.float32),
        reference_crop=np.frombuffer(crop, np.uint8).reshape(_CROP).copy(),
    )


@cache
def _libraries() -> dict[str, str]:
    """Return the versions of what cuts and recognises."""
    try:
        opencv = version("opencv-python")
    except PackageNotFoundError:
        opencv = "another build"
    return {"torch": read_environment().torch_version, "opencv": opencv}


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
