"""Turns a manifest into an ordered render plan.

It opens no files and sees no GPU: what it must know of photos, weights and the past arrives as
`PlanFacts`, so every decision here can be checked in a unit test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from lynx_engine.collector import collector_at_rest
from lynx_engine.consent import OFF, REQUIRED, Standing, consent_text, standing_of
from lynx_engine.dispatch import in_running_order
from lynx_engine.errors import Problem, RefusedError, nearest
from lynx_engine.gate import NO_EVALUATOR, IdentityGate, conditions_too, same_recogniser
from lynx_engine.history import Past, RetryFilter, sort_by_past
from lynx_engine.jobs import JobPattern, PastResult, RenderJob, RenderPlan, RowKey
from lynx_engine.manifest.read import in_file_order
from lynx_engine.manifest.values import NO_SUBJECT, Manifest, Row, Subject, WrittenSettings
from lynx_engine.manifest_rules import Rule
from lynx_engine.recipes import Fault, LoraFacts, Origin, Recipe, complete, laid_over
from lynx_engine.variants import get_variant

__all__ = [
    "LoraFacts",
    "PhotoFacts",
    "PlanFacts",
    "RetryFilter",
    "consent_problems",
    "plan_renders",
    "subject_digest",
]


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """What is known of a subject photo without seeking a face.

    Attributes:
        digest: sha256 of the file.
        width_px: Width after EXIF rotation.
        height_px: Height after EXIF rotation.
    """

    digest: str = field(repr=False)
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """All that planning knows of the world.

    Attributes:
        today: The day on which consent must hold.
        photos: Subject name -> its photos, for every subject that may be rendered.
        photo_problems: Subject name -> what is wrong with its photo.
        weights: Variant -> fingerprint of its weights.
        weights_problems: Variant -> what is wrong with its weights.
        loras: LoRA file, as in the manifest's values -> what is known of it.
        latest: Row key -> latest attempt under these names.
        by_job: Job id -> latest attempt at this request.
        attempts: Job id -> attempts so far.
        clips: File names in the campaign's clips folder.
        face_detector: Name of what finds faces on this machine.
        classifiers: Who looks at finished frames here, as settings name them; () if nobody does.
        evaluator: Name of the recogniser that scores likeness on this machine; "" without one.
        consent: What the settings ask of a subject's consent: required, warn or off.
        withdrawn: Subject name -> why it counts as withdrawn.
    """

    today: date
    photos: Mapping[str, tuple[PhotoFacts, ...]] = field(
        default_factory=dict[str, "tuple[PhotoFacts, ...]"]
    )
    photo_problems: Mapping[str, tuple[Problem, ...]] = field(
        default_factory=dict[str, "tuple[Problem, ...]"]
    )
    weights: Mapping[str, str] = field(default_factory=dict[str, str])
    weights_problems: Mapping[str, tuple[Problem, ...]] = field(
        default_factory=dict[str, "tuple[Problem, ...]"]
    )
    loras: Mapping[Path, LoraFacts] = field(default_factory=dict[Path, LoraFacts])
    latest: Mapping[RowKey, PastResult] = field(default_factory=dict[RowKey, PastResult])
    by_job: Mapping[str, PastResult] = field(default_factory=dict[str, PastResult])
    attempts: Mapping[str, int] = field(default_factory=dict[str, int])
    clips: frozenset[str] = frozenset()
    face_detector: str = ""
    classifiers: tuple[str, ...] = ()
    evaluator: str = ""
    consent: str = REQUIRED
    withdrawn: Mapping[str, str] = field(default_factory=dict[str, str])


@collector_at_rest()
def plan_renders(
    manifest: Manifest,
    facts: PlanFacts,
    *,
    skip_bad_rows: bool = False,
    only: Iterable[tuple[str, str]] = (),
    limit: int | None = None,
    retry: RetryFilter | None = None,
) -> RenderPlan:
    """Decide for every row whether it runs, is done, or waits, and why.

    Args:
        manifest: What the author wrote; if read leniently, its problems are refused here.
        facts: What is known of photos, weights and the past.
        skip_bad_rows: Leave out rows with problems and list the problems in the plan.
        only: Pairs such as ("subject", "host"); a row must match one pair of each field named.
            Fields: subject, prompt, variant, seed.
        limit: Run this many jobs at most, the first ones of the order.
        retry: Run only unsuccessful jobs that this selects.

    Returns:
        The plan; jobs that will run grouped by variant and shape, the longest first.

    Raises:
        RefusedError: With every problem of every row, unless these are skipped; always, if the
            manifest as a whole is unsound or `only` matches no row.
        KeyError: If `facts` lacks the photo or the weights of a sound row.
    """
    selection = _selection(only)
    drafting = _Drafting(manifest, facts)
    jobs = drafting.jobs()
    refused = drafting.refused if skip_bad_rows else (*drafting.refused, *drafting.row_problems)
    if refused:
        raise RefusedError(in_file_order((*drafting.refused, *drafting.row_problems)))
    # Compared with the past before the selection: a row left aside still claims its own record.
    past = Past(facts.latest, facts.by_job, facts.attempts, facts.clips)
    to_run, done, held, weak = sort_by_past(jobs, past, retry)
    if selection:
        _check_selection(selection, jobs)
        to_run = [p for p in to_run if _is_selected(p.job, selection)]
        done = [job for job in done if _is_selected(job, selection)]
        held = [h for h in held if _is_selected(h.job, selection)]
        weak = [job for job in weak if _is_selected(job, selection)]
    to_run = in_running_order(to_run)
    return RenderPlan(
        campaign=manifest.campaign,
        to_run=tuple(to_run if limit is None else to_run[: max(limit, 0)]),
        done=tuple(done),
        held=tuple(held),
        low_identity=tuple(weak),
        problems=in_file_order(drafting.row_problems),
        warnings=in_file_order(drafting.warnings),
    )


def subject_digest(photos: Iterable[PhotoFacts]) -> str:
    """Return what stands for a subject's photos in a job's id."""
    return ",".join(photo.digest for photo in photos)


def consent_problems(subject: Subject, facts: PlanFacts) -> tuple[Problem, ...]:
    """Return what forbids using a subject's face; to be asked before the face is read."""
    standing = _standing(subject, facts)
    if not standing.refusal:
        return ()
    return (Problem(subject.where, standing.refusal, standing.rule),)


def _standing(subject: Subject, facts: PlanFacts) -> Standing:
    withdrawn = facts.withdrawn.get(subject.name, "")
    return standing_of(subject, facts.today, setting=facts.consent, withdrawn=withdrawn)


class _Drafting:
    """Makes the jobs of one manifest and gathers every problem on the way."""

    def __init__(self, manifest: Manifest, facts: PlanFacts) -> None:
        self.refused = manifest.problems
        self._manifest = manifest
        self._facts = facts
        # A dict keeps the first of equal problems and their order.
        self._problems: dict[Problem, None] = dict.fromkeys(manifest.row_problems)
        self._recipes: dict[WrittenSettings, tuple[Recipe | None, tuple[Fault, ...]]] = {}
        self._subjects: dict[str, tuple[Problem, ...]] = {}
        self._unwritten: set[str] = set()
        self._warnings: list[Problem] = []
        self._gate = ""
        if (gate := manifest.gate) is None:
            return
        if facts.evaluator:
            asked = IdentityGate(gate.min_score, gate.attempts, gate.keep, facts.evaluator)
            self._gate = str(asked)
        else:
            self.refused = (
                *self.refused,
                Problem(gate.where, NO_EVALUATOR, Rule.NO_EVALUATOR),
            )

    @property
    def row_problems(self) -> tuple[Problem, ...]:
        """Every problem of single rows, once."""
        return tuple(self._problems)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What a person should know of subjects that render."""
        return tuple(self._warnings)

    def jobs(self) -> list[RenderJob]:
        """Return the job of every sound row, in the author's order."""
        jobs: dict[str, RenderJob] = {}
        patterns: dict[tuple[str | None, WrittenSettings], JobPattern] = {}
        for row in self._manifest.rows:
            kind = (row.subject, row.settings)
            pattern = patterns.get(kind)
            if pattern is None:
                # Judged once a kind if it is sound, else at each row: letters name lines.
                pattern = self._pattern(row)
                if pattern is None:
                    continue
                patterns[kind] = pattern
            job = pattern.job(
                where=row.where,
                prompt_name=row.prompt.name,
                prompt=row.prompt.text,
                seed=row.seed,
            )
            first = jobs.setdefault(job.job_id, job)
            if first is not job:
                self._problems[_twice(first, job)] = None
        for row in self._manifest.suspects:
            self._recipe(row)
        return list(jobs.values())

    def _pattern(self, row: Row) -> JobPattern | None:
        """Return what makes the jobs of all rows like this one, or note why there is nothing."""
        recipe = self._recipe(row)
        problems = (*self._subject_problems(row, recipe), *self._gate_problems(recipe))
        self._problems.update(dict.fromkeys(problems))
        return None if recipe is None or problems else JobPattern(self._job(row, recipe))

    def _recipe(self, row: Row) -> Recipe | None:
        known = self._recipes.get(row.settings)
        if known is None:
            known = complete(
                row.settings,
                self._manifest.defaults,
                self._facts.loras,
                classifiers=self._facts.classifiers,
            )
            self._recipes[row.settings] = known
        recipe, faults = known
        for fault in faults:
            self._note(self._placed(fault, row))
        if recipe is not None:
            variant = recipe.spec.name
        else:
            variant = laid_over(row.settings, self._manifest.defaults).variant or ""
        problems = self._facts.weights_problems.get(variant, ())
        for problem in problems:
            # Told once, at the first row that asks for the variant.
            told = f"{problem.where}: {problem.text}"
            fault = Fault("variant", Origin.NOWHERE, Rule.MISSING_WEIGHTS, told)
            self._note(self._placed(fault, row))
        return None if problems else recipe

    def _note(self, problem: Problem | None) -> None:
        if problem is not None:
            self._problems[problem] = None

    def _placed(self, fault: Fault, row: Row) -> Problem | None:
        """Return a fault with its line: where it was written, else at the first row it concerns."""
        if fault.origin is Origin.ROW:
            return Problem(row.where_of(fault.setting), fault.text, fault.rule)
        if fault.origin is Origin.DEFAULTS:
            where = self._manifest.defaults_where.get(fault.setting, row.where)
            return Problem(where, fault.text, fault.rule)
        if fault.text in self._unwritten:
            return None
        self._unwritten.add(fault.text)
        return Problem(row.where, fault.text, fault.rule)

    def _subject_problems(self, row: Row, recipe: Recipe | None) -> tuple[Problem, ...]:
        """Return what is wrong with the subject; with no recipe known, assume it will be used."""
        if recipe is not None and not recipe.spec.uses_subject:
            return ()
        if row.subject is None:
            if recipe is None:
                return ()
            text = f"{recipe.spec.name} renders a subject, and none is written; add subject"
            return (Problem(row.where, text, Rule.MISSING_SUBJECT),)
        if row.subject not in self._subjects:
            subject = self._manifest.subjects[row.subject]
            standing = _standing(subject, self._facts)
            if standing.warning:
                warning = Problem(subject.where, standing.warning, standing.rule)
                self._warnings.append(warning)
            self._subjects[row.subject] = (
                *consent_problems(subject, self._facts),
                *self._facts.photo_problems.get(row.subject, ()),
            )
        return self._subjects[row.subject]

    def _gate_problems(self, recipe: Recipe | None) -> tuple[Problem, ...]:
        """Return why the gate cannot judge a variant."""
        gate, evaluator = self._manifest.gate, self._facts.evaluator
        if gate is None or recipe is None or not conditions_too(evaluator, recipe.spec):
            return ()
        text = same_recogniser(evaluator, recipe.spec)
        return (Problem(gate.where, text, Rule.SAME_RECOGNISER),)

    def _expiry(self, subject: Subject) -> date | None:
        asked = not subject.synthetic and self._facts.consent != OFF
        return subject.consent.expires if asked and subject.consent else None

    def _job(self, row: Row, recipe: Recipe) -> RenderJob:
        subject = None
        if row.subject is not None and recipe.spec.uses_subject:
            subject = self._manifest.subjects[row.subject]
        return RenderJob(
            campaign=self._manifest.campaign,
            subject=row.subject or NO_SUBJECT,
            prompt_name=row.prompt.name,
            where=row.where,
            photos=() if subject is None else subject.images,
            memory=recipe.memory,
            safety=recipe.safety,
            consent="" if subject is None else _standing(subject, self._facts).word,
            consent_expires=None if subject is None else self._expiry(subject),
            consent_written="" if subject is None else consent_text(subject),
            subject_digest=""
            if subject is None
            else subject_digest(self._facts.photos[subject.name]),
            face="" if subject is None else subject.face,
            face_detector="" if subject is None else self._facts.face_detector,
            prompt=row.prompt.text,
            negative_prompt=recipe.negative_prompt,
            variant=recipe.spec.name,
            weights_fingerprint=self._facts.weights[recipe.spec.name],
            seed=row.seed,
            frames=recipe.frames,
            fps=recipe.fps,
            size=recipe.size,
            steps=recipe.steps,
            guidance_text=recipe.guidance_text,
            guidance_identity=recipe.guidance_identity,
            scale_identity=recipe.scale_identity,
            scale_reference=recipe.scale_reference,
            precision=recipe.precision,
            numerics=recipe.numerics,
            speed=recipe.speed,
            loras=recipe.loras,
            label=recipe.label,
            codec=recipe.codec,
            crf=recipe.crf,
            gate="" if subject is None else self._gate,
        )


def _twice(first: RenderJob, second: RenderJob) -> Problem:
    cause = ""
    if first.subject != second.subject:
        cause = (
            f", since '{first.subject}' and '{second.subject}' have the same photo"
            if get_variant(second.variant).uses_subject
            else f", since {second.variant} ignores the subject"
        )
    if first.where == second.where:
        return Problem(
            second.where,
            f"two combinations here are one clip{cause}; remove the repeated value, or exclude one",
            Rule.SAME_CLIP,
        )
    return Problem(
        second.where,
        f"rows at {first.where} and {second.where} are one clip{cause}; remove one",
        Rule.SAME_CLIP,
    )


_Selection = Mapping[str, frozenset[str]]

_FIELDS: Mapping[str, Callable[[RenderJob], str]] = {
    "subject": lambda job: job.subject,
    "prompt": lambda job: job.prompt_name,
    "variant": lambda job: job.variant,
    "seed": lambda job: str(job.seed),
}


def _selection(only: Iterable[tuple[str, str]]) -> _Selection:
    chosen: dict[str, frozenset[str]] = {}
    for name, value in only:
        if name not in _FIELDS:
            advice = nearest(name, _FIELDS) or "; it takes subject, prompt, variant or seed"
            raise RefusedError(
                [Problem("--only", f"there is no field '{name}'{advice}", Rule.SELECTION)]
            )
        chosen[name] = chosen.get(name, frozenset()) | {value}
    return chosen


def _check_selection(selection: _Selection, jobs: Sequence[RenderJob]) -> None:
    for name, values in selection.items():
        known = {_FIELDS[name](job) for job in jobs}
        unknown = sorted(values - known)
        if unknown:
            raise RefusedError(
                Problem(
                    "--only", f"no row has {name} '{value}'{nearest(value, known)}", Rule.SELECTION
                )
                for value in unknown
            )
    if jobs and not any(_is_selected(job, selection) for job in jobs):
        told = " and ".join(
            f"{name} {' or '.join(sorted(values))}" for name, values in selection.items()
        )
        text = f"no row has {told} together; leave one out"
        raise RefusedError([Problem("--only", text, Rule.SELECTION)])


def _is_selected(job: RenderJob, selection: _Selection) -> bool:
    return all(_FIELDS[name](job) in values for name, values in selection.items())
