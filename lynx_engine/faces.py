"""The faces of a campaign's subjects: each is embedded once, for all campaigns of a workspace.

What is not in memory is sought in the vault; what is not there, the pool embeds. It knows the
pre-flight's landmarks; which rows need a face is the campaign's business.
"""

from __future__ import annotations

import logging
import threading
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.digest import digest_bytes, digest_mapping
from lynx_engine.errors import RefusedError, RowError
from lynx_engine.identity.align import REFERENCE_CROP_PX
from lynx_engine.orders import FaceRequest
from lynx_engine.preflight import FaceKey, Preflight, face_keys
from lynx_engine.provenance.environment import read_environment
from lynx_engine.variants import get_variant
from lynx_engine.weights.fingerprint import encoder_fingerprint

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lynx_engine.identity.embed import SubjectFace
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
