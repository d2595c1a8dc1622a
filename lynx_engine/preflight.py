"""The photo pre-flight: looks at every photo that a plan needs, before a model loads.

It loads no torch: faces are found with OpenCV, once for all campaigns where there is a vault. What
a photo may be used for was decided by planning; what a recogniser makes of its face is `faces.py`'s
business. What cannot be used is a fault, and refused; what is only poor is advice, and told.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import ErrorCode, Problem, RefusedError, RowError
from lynx_engine.identity.detect import choose_face
from lynx_engine.identity.found import FoundPhoto, find_in_photo
from lynx_engine.identity.quality import (
    SAME_FACE_BITS,
    SAME_PHOTO_BITS,
    Advice,
    FaceMeasures,
    advice_on,
    hash_distance,
    look_alikes,
)
from lynx_engine.jobs import RenderJob, RenderPlan
from lynx_engine.manifest.read import in_file_order
from lynx_engine.manifest_rules import Rule
from lynx_engine.media.images import inspect_photo
from lynx_engine.planning import PlanFacts, consent_problems
from lynx_engine.survey import twice_letter

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lynx_engine.identity.vault import Vault
    from lynx_engine.manifest.values import Manifest, Subject
    from lynx_engine.settings import Settings

logger = logging.getLogger(__name__)

_TWINS_NAMED = 3

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


@dataclass(frozen=True, slots=True, eq=False)
class PhotoReport:
    """What the pre-flight says of one photo of one subject.

    Attributes:
        subject: The subject's name.
        photo: The file.
        found: What is in it; None if it may not be looked at, or cannot be.
        chosen: The subject's face, counted from the left; None if there is none to use.
        fault: Why it is refused, or None.
        advice: What would make it better; a photo can be used all the same.
    """

    subject: str
    photo: Path
    found: FoundPhoto | None = None
    chosen: int | None = None
    fault: Problem | None = None
    advice: tuple[Advice, ...] = ()

    @property
    def measures(self) -> FaceMeasures | None:
        """The measures of the subject's face, if there is one."""
        if self.found is None or self.chosen is None:
            return None
        return self.found.measures[self.chosen]

    @property
    def verdict(self) -> str:
        """`refused`, `poor` (it can be used, and could be better) or `good`."""
        if self.fault is not None:
            return "refused"
        return "poor" if self.advice else "good"

    @property
    def reason(self) -> str:
        """Why it is refused, without the names of subject and photo; "" if it is not."""
        if self.fault is None:
            return ""
        told = self.fault.text.removeprefix(f"subject '{self.subject}': ")
        return told.removeprefix(f"{self.photo}: ")

    @property
    def remark(self) -> str:
        """The advice in one line, "" without any."""
        told = " ".join(f"{advice.text[0].upper()}{advice.text[1:]}" for advice in self.advice)
        return f"subject '{self.subject}': {self.photo}: {told}" if told else ""


def photo_vault(settings: Settings) -> Vault | None:
    """Return where findings are kept; None where the disk lets us keep nothing.

    Raises:
        DamagedError: If the workspace's key is damaged.
    """
    from lynx_engine.identity.vault import open_vault

    try:
        return open_vault(settings)
    except OSError as error:
        logger.warning("%s: nothing is kept of faces (%s)", settings.state_dir, error.strerror)
        return None


def face_keys(job: RenderJob) -> tuple[FaceKey, ...]:
    """Return which face of which photos a job shows."""
    return tuple((digest, job.face) for digest in job.photo_digests)


def find_subject_faces(
    plan: RenderPlan, *, vault: Vault | None = None, skip_bad_rows: bool = False
) -> Preflight:
    """Find the face in every photo that the plan needs, before any model loads.

    Args:
        plan: Its rows to run have a right to their faces; a row without one was refused.
        vault: Where what is found is kept; None keeps nothing.
        skip_bad_rows: Return the problems instead of refusing.

    Raises:
        RefusedError: With every photo that has no usable face, unless bad rows are skipped.
    """
    known: dict[FaceKey, npt.NDArray[np.float32] | str] = {}
    problems: dict[str, Problem] = {}
    told: dict[Problem, None] = {}
    for job in (planned.job for planned in plan.to_run):
        for photo, key in zip(job.photos, face_keys(job), strict=True):
            if key not in known:
                known[key] = _landmarks(photo, key, vault, job.subject)
            found = known[key]
            if isinstance(found, str):
                problem = Problem(job.where, _letter(job.subject, photo, found), Rule.BAD_FACE)
                problems.setdefault(job.job_id, problem)
                told[problem] = None
    if told and not skip_bad_rows:
        raise RefusedError(in_file_order(tuple(told)))
    usable = {key: found for key, found in known.items() if not isinstance(found, str)}
    return Preflight(usable, problems)


def look_at_photos(
    manifest: Manifest,
    facts: PlanFacts,
    *,
    vault: Vault | None = None,
    subjects: Collection[str] | None = None,
) -> tuple[PhotoReport, ...]:
    """Return what there is to say of every photo of a manifest, in its order.

    Args:
        manifest: The manifest.
        facts: What is known of its photos, and the day on which consent must hold.
        vault: Where what is found is kept; None keeps nothing.
        subjects: Look at these only.
    """
    return _with_look_alikes(
        tuple(
            report
            for subject in manifest.subjects.values()
            if subjects is None or subject.name in subjects
            for report in _reports(subject, facts, vault)
        )
    )


def face_problems(
    manifest: Manifest, facts: PlanFacts, *, vault: Vault | None = None
) -> tuple[Problem, ...]:
    """Return what is wrong with the faces of a manifest, at the lines that name the photos.

    Subjects without a right to the face, or with a photo that cannot be read, are left aside: what
    is wrong with those that a row uses, planning says.
    """
    usable = {
        subject.name
        for subject in manifest.subjects.values()
        if subject.name in facts.photos and not consent_problems(subject, facts)
    }
    return faults(look_at_photos(manifest, facts, vault=vault, subjects=usable))


def faults(reports: Sequence[PhotoReport]) -> tuple[Problem, ...]:
    """Return why photos are refused, each reason once."""
    return tuple(dict.fromkeys(report.fault for report in reports if report.fault is not None))


def _reports(subject: Subject, facts: PlanFacts, vault: Vault | None) -> Iterator[PhotoReport]:
    """Yield a report on each photo of a subject; none is opened without a right to the face."""
    forbidden = consent_problems(subject, facts)
    if forbidden:
        for photo in subject.images:
            yield PhotoReport(subject.name, photo, fault=forbidden[0])
        return
    known = facts.photos.get(subject.name)
    if known is not None:
        for photo, header in zip(subject.images, known, strict=True):
            yield _report(subject, photo, header.digest, vault)
        return
    seen: dict[str, Path] = {}
    for photo in subject.images:
        try:
            digest = inspect_photo(photo).digest
        except RowError as error:
            fault = Problem(subject.where, str(error), Rule.BAD_PHOTO)
            yield PhotoReport(subject.name, photo, fault=fault)
            continue
        report = _report(subject, photo, digest, vault)
        first = seen.setdefault(digest, photo)
        if first is not photo:
            text = twice_letter(subject.name, first, photo)
            fault = Problem(subject.where, text, Rule.SAME_PHOTO)
            report = replace(report, fault=fault)
        yield report


def _report(subject: Subject, photo: Path, digest: str, vault: Vault | None) -> PhotoReport:
    report = PhotoReport(subject.name, photo)
    try:
        found = find_in_photo(photo, digest, vault=vault, name=subject.name)
        report = replace(report, found=found)
        chosen = found.faces.index(choose_face(found.faces, subject.face))
    except RowError as error:
        rule = Rule.BAD_PHOTO if error.code is ErrorCode.IMAGE else Rule.BAD_FACE
        text = _letter(subject.name, photo, str(error))
        return replace(report, fault=Problem(subject.where, text, rule))
    return replace(report, chosen=chosen, advice=advice_on(found.measures[chosen]))


def _landmarks(
    photo: Path, key: FaceKey, vault: Vault | None, subject: str
) -> npt.NDArray[np.float32] | str:
    """Return a face's landmarks, or why it cannot be used."""
    digest, choice = key
    try:
        found = find_in_photo(photo, digest, vault=vault, name=subject)
        return choose_face(found.faces, choice).landmarks
    except RowError as error:
        return str(error)


def _letter(subject: str, photo: Path, fault: str) -> str:
    named = fault.startswith(f"{photo} ")
    return f"subject '{subject}': {fault}" if named else f"subject '{subject}': {photo}: {fault}"


def _with_look_alikes(reports: tuple[PhotoReport, ...]) -> tuple[PhotoReport, ...]:
    """Add to each photo that it is nearly one of another subject, which may be a mix-up.

    The faces decide, not the photos: two faces of one group photo are two people.
    """
    faces = [(report, report.measures) for report in reports if report.measures is not None]
    alike = look_alikes([measures.face_hash for _, measures in faces], SAME_FACE_BITS)
    twins: dict[int, list[PhotoReport]] = {}
    for one, other in alike:
        for report, twin in ((faces[one][0], faces[other][0]), (faces[other][0], faces[one][0])):
            if report.subject != twin.subject:
                twins.setdefault(id(report), []).append(twin)
    return tuple(
        replace(report, advice=(*report.advice, _look_alike(report, twins[id(report)])))
        if id(report) in twins
        else report
        for report in reports
    )


def _look_alike(report: PhotoReport, twins: Sequence[PhotoReport]) -> Advice:
    named = [
        f"{twin.photo} of subject '{twin.subject}'{', the same photo' * _is_copy(report, twin)}"
        for twin in twins[:_TWINS_NAMED]
    ]
    more = f" and {len(twins) - _TWINS_NAMED} more" if len(twins) > _TWINS_NAMED else ""
    text = (
        f"the face is nearly the same picture as in {'; '.join(named)}{more}. If these are "
        "different people, a photo is wrong; if not, they need one name only."
    )
    return Advice("look-alike", text)


def _is_copy(one: PhotoReport, other: PhotoReport) -> bool:
    """Whether also all around the face is nearly the same."""
    if one.found is None or other.found is None:
        return False
    return hash_distance(one.found.hash, other.found.hash) <= SAME_PHOTO_BITS
