"""The faces of a campaign's subjects: each is embedded once, whoever asks for it.

It knows the pre-flight's landmarks and a pool; which rows need a face is the campaign's business.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.preflight import FaceKey, Preflight, face_keys
from lynx_engine.variants import get_variant
from lynx_engine.worker import FaceRequest

if TYPE_CHECKING:
    from lynx_engine.identity.embed import SubjectFace
    from lynx_engine.jobs import RenderJob
    from lynx_engine.pool.protocol import Pool


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
