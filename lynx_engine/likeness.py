"""Whom a campaign's clips shall resemble, as the evaluator sees it: each photo is embedded once.

It runs in the orchestrating process, on the CPU. Which recogniser conditions the clips is
`faces.py`'s business; this one is another.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import ErrorCode, RefusedError, RowError
from lynx_engine.identity.quality import Advice
from lynx_engine.preflight import FaceKey, PhotoReport, Preflight, face_keys

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lynx_engine.identity.detect import Face
    from lynx_engine.identity.evaluators import Evaluator
    from lynx_engine.identity.score import LikenessTarget
    from lynx_engine.identity.vault import Vault
    from lynx_engine.jobs import RenderJob
    from lynx_engine.settings import Settings

logger = logging.getLogger(__name__)

_LIKENESS_VERSION = 1
"""Counts up when the evaluator is given another view of a photo."""


class SubjectLikeness:
    """Embeds subject photos for the evaluator, each once; safe to use from several threads.

    Attributes:
        evaluator: Who scores; None where nobody does.
        embedded: Photos that the evaluator was run on.
    """

    def __init__(self, preflight: Preflight, setting: str, *, vault: Vault | None = None) -> None:
        """Know where the faces are, and who scores.

        Args:
            preflight: Where each face is in its photo.
            setting: The evaluator, as `choose_evaluator` understands it.
            vault: Where embeddings outlive the run; None keeps them for this run.

        Raises:
            RefusedError: If that evaluator is not installed.
        """
        from lynx_engine.identity.evaluators import choose_evaluator, resolve_setting

        self.embedded = 0
        self._preflight = preflight
        self._setting = resolve_setting(setting)
        self.evaluator = choose_evaluator(self._setting)
        self._vault = vault
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

        evaluator = self.evaluator
        if evaluator is None or not job.photos:
            return None
        try:
            embeddings = [
                self.embed(job.subject, photo, key)
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

    def embed(self, subject: str, photo: Path, key: FaceKey) -> npt.NDArray[np.float32]:
        """Return the evaluator's embedding of one face of one photo, float32 [D].

        Args:
            subject: The subject's name, for the vault and the log.
            photo: The file.
            key: Its digest, and which face.

        Raises:
            RowError: IMAGE, FACE or SCORE.
            ValueError: If nobody scores.
        """
        if self.evaluator is None:
            raise ValueError("there is no evaluator")
        with self._guard:
            return self._embedding(self.evaluator, subject, photo, key)

    def _embedding(
        self, evaluator: Evaluator, subject: str, photo: Path, key: FaceKey
    ) -> npt.NDArray[np.float32]:
        """Return the evaluator's embedding of one face; called by one thread at a time."""
        import numpy as np

        if key in self._known:
            return self._known[key]
        digest, choice = key
        entry = _entry(evaluator, choice)
        kept = self._look_up(digest, entry)
        if kept is not None:
            embedding = np.frombuffer(kept, np.float32)
            self._remember(digest, subject)
        else:
            embedding = self._embed(evaluator, photo, key, subject)
            self.embedded += 1
            logger.info("the evaluator recognised a photo of subject '%s'", subject)
            self._keep(digest, entry, embedding, subject)
        self._known[key] = embedding
        return embedding

    def _look_up(self, digest: str, entry: str) -> bytes | None:
        try:
            return None if self._vault is None else self._vault.get(digest, entry)
        except (OSError, RefusedError) as error:
            logger.warning("an embedding is not looked up: %s", error)
            return None

    def _remember(self, digest: str, subject: str) -> None:
        try:
            if self._vault is not None:
                self._vault.remember(digest, subject)
        except (OSError, RefusedError) as error:
            logger.warning("the name %s is not remembered: %s", subject, error)

    def _keep(
        self, digest: str, entry: str, embedding: npt.NDArray[np.float32], subject: str
    ) -> None:
        try:
            if self._vault is not None:
                self._vault.put(digest, entry, embedding.tobytes(), name=subject)
        except (OSError, RefusedError) as error:
            logger.warning("the embedding of subject '%s' is not kept: %s", subject, error)

    def _embed(
        self, evaluator: Evaluator, photo: Path, key: FaceKey, subject: str
    ) -> npt.NDArray[np.float32]:
        import numpy as np

        from lynx_engine.identity.detect import choose_face
        from lynx_engine.identity.found import find_in_photo
        from lynx_engine.media.images import inspect_photo, read_photo

        if inspect_photo(photo).digest != key[0]:
            text = f"{photo} changed after the campaign was planned. Run the command again."
            raise RowError(ErrorCode.IMAGE, text)
        faces = find_in_photo(photo, key[0], vault=self._vault, name=subject).faces
        if faces and key in self._preflight.landmarks:
            face = _nearest(faces, self._preflight.landmarks[key])
        else:
            face = choose_face(faces, key[1])
        embedding = evaluator.embed(read_photo(photo), face).astype(np.float32)
        if not np.isfinite(embedding).all():
            text = f"{evaluator.name} made an embedding of {photo} that holds NaN."
            raise RowError(ErrorCode.SCORE, text)
        return embedding


def with_outliers(
    reports: Sequence[PhotoReport], *, settings: Settings, vault: Vault | None
) -> tuple[PhotoReport, ...]:
    """Add to photos of one subject that one is unlike the others, as the evaluator sees them.

    Subjects with one photo are left as they are, and all of them where nobody scores.

    Args:
        reports: What the pre-flight says; photos that are refused are not held against others.
        settings: Which evaluator.
        vault: Where embeddings outlive the run; None keeps nothing.

    Raises:
        RefusedError: If the evaluator asked for is not installed.
    """
    from lynx_engine.identity.embed import SAME_PERSON_COSINE, outlier_photos

    groups: dict[str, list[int]] = {}
    for place, report in enumerate(reports):
        if report.fault is None and report.chosen is not None:
            groups.setdefault(report.subject, []).append(place)
    groups = {subject: places for subject, places in groups.items() if len(places) > 1}
    told = list(reports)
    if not groups:
        return tuple(told)
    embedder = SubjectLikeness(Preflight({}, {}), settings.evaluator, vault=vault)
    evaluator = embedder.evaluator
    if evaluator is None:
        return tuple(told)
    least = SAME_PERSON_COSINE if evaluator.threshold is None else evaluator.threshold
    for places in groups.values():
        embeddings = [_embed_chosen(embedder, told[n]) for n in places]
        for n in outlier_photos(embeddings, score=evaluator.score, least=least):
            report = told[places[n]]
            advice = (*report.advice, _unlike(len(places) - 1))
            told[places[n]] = replace(report, advice=advice)
    return tuple(told)


def _embed_chosen(embedder: SubjectLikeness, report: PhotoReport) -> npt.NDArray[np.float32]:
    from lynx_engine.media.images import inspect_photo

    key = (inspect_photo(report.photo).digest, f"index:{report.chosen}")
    return embedder.embed(report.subject, report.photo, key)


def _unlike(others: int) -> Advice:
    which = "the other photo" if others == 1 else f"the other {others} photos"
    return Advice(
        "unlike",
        f"the face is unlike {which} of this subject. If it is another person, remove the photo; "
        "it takes part in the mean until then.",
    )


def _entry(evaluator: Evaluator, choice: str) -> str:
    """Return the text that names all that an embedding depends on, beside the photo."""
    from lynx_engine.identity.detect import detector_name

    return f"likeness {_LIKENESS_VERSION}; {evaluator.name}; {detector_name()}; face {choice}"


def _nearest(faces: Sequence[Face], landmarks: npt.NDArray[np.float32]) -> Face:
    """Return the face whose landmarks lie nearest to those of the pre-flight."""
    return min(faces, key=lambda face: float(abs(face.landmarks - landmarks).max()))
