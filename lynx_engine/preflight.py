"""The photo pre-flight: looks for the face in every photo that a plan needs, before a model loads.

It loads no torch: faces are found with OpenCV. What a photo is named and may be used for was
decided by planning; what a recogniser makes of its face is `faces.py`'s business.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import Problem, RefusedError, RowError
from lynx_engine.jobs import RenderJob, RenderPlan
from lynx_engine.manifest.read import in_file_order
from lynx_engine.media.images import read_photo
from lynx_engine.planning import PlanFacts, consent_problems

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lynx_engine.manifest.values import Manifest

FaceKey = tuple[str, str]
"""Photo digest and face choice: one face of one photo."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """What the photos of a plan hold.

    Attributes:
        landmarks: Face -> float32 [5, 2], (x, y) in pixels of the photo.
        problems: Job id -> why its photo has no usable face.
    """

    landmarks: Mapping[FaceKey, npt.NDArray[np.float32]]
    problems: Mapping[str, Problem]


def face_keys(job: RenderJob) -> tuple[FaceKey, ...]:
    """Return which face of which photos a job shows."""
    return tuple((digest, job.face) for digest in job.photo_digests)


def find_subject_faces(plan: RenderPlan, *, skip_bad_rows: bool = False) -> Preflight:
    """Find the face in every photo that the plan needs, before any model loads.

    Raises:
        RefusedError: With every photo that has no usable face, unless bad rows are skipped.
    """
    landmarks: dict[FaceKey, npt.NDArray[np.float32]] = {}
    problems: dict[str, Problem] = {}
    for job in (planned.job for planned in plan.to_run):
        for photo, key in zip(job.photos, face_keys(job), strict=True):
            found = _find_face(photo, *key)
            if isinstance(found, str):
                problems[job.job_id] = Problem(job.where, _face_letter(job.subject, found))
            else:
                landmarks[key] = found
    if problems and not skip_bad_rows:
        raise RefusedError(in_file_order(tuple(problems.values())))
    return Preflight(landmarks, problems)


def face_problems(
    manifest: Manifest, facts: PlanFacts, subjects: Collection[str] | None = None
) -> tuple[Problem, ...]:
    """Return what is wrong with the faces of a manifest, at the lines that name the photos.

    Args:
        manifest: The manifest.
        facts: Its photos; one that cannot be read has a problem there already.
        subjects: Look at these only. No face is read without a right to it.
    """
    problems: list[Problem] = []
    for subject in manifest.subjects.values():
        wanted = subjects is None or subject.name in subjects
        if not wanted or subject.name not in facts.photos or consent_problems(subject, facts):
            continue
        for photo, known in zip(subject.images, facts.photos[subject.name], strict=True):
            found = _find_face(photo, known.digest, subject.face)
            if isinstance(found, str):
                problems.append(Problem(subject.where, _face_letter(subject.name, found)))
    return tuple(problems)


@cache
def _find_face(photo: Path, digest: str, choice: str) -> npt.NDArray[np.float32] | str:
    """Return a face's landmarks, or why it cannot be used; `digest` tells photos apart."""
    from lynx_engine.identity.detect import choose_face, find_faces

    del digest
    try:
        return choose_face(find_faces(read_photo(photo)), choice).landmarks
    except RowError as error:
        return f"{photo}: {error}"


def _face_letter(subject: str, fault: str) -> str:
    return f"subject '{subject}': {fault}"
