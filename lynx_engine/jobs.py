"""The stages of a request after the manifest: job, plan, and what is known of the past.

A `RenderJob` is a complete request: nothing in it is optional, and its id is the digest of all
that can change a pixel. This module opens no files and knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from lynx_engine.digest import canonical_text, digest_text
from lynx_engine.errors import Problem
from lynx_engine.shapes import FrameSize

ID_CHARACTERS_IN_CLIP_NAME = 12


class RowKey(NamedTuple):
    """What an author calls a row: its names, not its settings."""

    subject: str
    prompt_name: str
    seed: int
    variant: str


@dataclass(frozen=True, slots=True)
class Lora:
    """A low-rank adapter laid over the base model: known by its content, found by its path.

    Attributes:
        weights_digest: sha256 of its file.
        scale: Its strength.
        path: The file; no part of the request.
        numbers: How many it adds to the model, for estimates; no part of the request.
    """

    weights_digest: str
    scale: float
    path: Path
    numbers: int = 0


def _request(name: str) -> dict[str, str]:
    """Mark a field as part of the job's id; `name` is the word the author knows it by."""
    return {"request": name}


@dataclass(frozen=True, slots=True)
class RenderJob:
    """One clip, completely specified.

    Fields marked as request make the `job_id`; the others name, place or hurry the work without
    changing a pixel beyond rounding.

    Attributes:
        campaign: Campaign name, a checked label.
        subject: Subject name, or "none" for a variant without identity.
        prompt_name: The author's name for the prompt.
        where: Manifest file and line, for messages.
        photos: The subject's photos, none for a variant without identity.
        memory: Memory tier asked for.
        safety: `on` or `acknowledged-off`.
        consent: The right to the face as the record names it (`consent.py` has the words): its
            basis, "synthetic", what was wanting; "" without a subject.
        consent_expires: The last day on which it holds, UTC; None if it has no end, or nobody asks.
        consent_written: The consent in the manifest's words, as `consent_text` joins them; "" where
            none is written. The record keeps a keyed mark of it, and nothing else does.
        subject_digest: sha256 of the photo's bytes, of several comma-separated in their order, ""
            without a subject.
        face: Which face of the photo: `only`, `largest` or `index:N` counted from the left.
        face_detector: What finds its landmarks; another detector crops otherwise.
        prompt: The text, exactly as written.
        negative_prompt: The text guidance steers away from.
        variant: Registry name.
        weights_fingerprint: Digest that stands for every weight file of the variant.
        seed: 0 to 2^63 - 1; the same seed draws the same noise.
        frames: F, pixel frames.
        fps: Frames a second of the clip.
        size: Width and height in pixels.
        steps: Sampling steps.
        guidance_text: s_txt of the guidance formula.
        guidance_identity: s_id of the guidance formula; 0.0 where the variant has no such branch.
        scale_identity: Factor on the identity adapter's attention; 0.0 without the adapter.
        scale_reference: Factor on the reference adapter's attention; 0.0 without the adapter.
        precision: Floating-point type of transformer, text encoder and resampler.
        numerics: `normal` or `strict`.
        speed: `exact`, or a lossy shortcut by its recorded name.
        loras: Low-rank adapters, in the order they are applied.
        label: Burnt-in label profile.
        codec: Video codec.
        crf: Constant rate factor of the encoder; lower is better and larger.
        gate: The identity gate and its recogniser, as `IdentityGate` writes them; "" without one.
    """

    campaign: str
    subject: str
    prompt_name: str
    where: str
    photos: tuple[Path, ...]
    memory: str
    safety: str
    consent: str
    # No photo's digest may reach a log, where a job's text may stand.
    subject_digest: str = field(metadata=_request("subject photo"), repr=False)
    face: str = field(metadata=_request("face"))
    face_detector: str = field(metadata=_request("face detector"))
    prompt: str = field(metadata=_request("prompt"))
    negative_prompt: str = field(metadata=_request("negative_prompt"))
    variant: str = field(metadata=_request("variant"))
    weights_fingerprint: str = field(metadata=_request("weights"))
    seed: int = field(metadata=_request("seed"))
    frames: int = field(metadata=_request("frames"))
    fps: int = field(metadata=_request("fps"))
    size: FrameSize = field(metadata=_request("size"))
    steps: int = field(metadata=_request("steps"))
    guidance_text: float = field(metadata=_request("guidance_text"))
    guidance_identity: float = field(metadata=_request("guidance_identity"))
    scale_identity: float = field(metadata=_request("scale_identity"))
    scale_reference: float = field(metadata=_request("scale_reference"))
    precision: str = field(metadata=_request("precision"))
    numerics: str = field(metadata=_request("numerics"))
    speed: str = field(metadata=_request("speed"))
    loras: tuple[Lora, ...] = field(metadata=_request("loras"))
    label: str = field(metadata=_request("label"))
    codec: str = field(metadata=_request("video codec"))
    crf: int = field(metadata=_request("video crf"))
    gate: str = field(default="", metadata=_request("identity gate"))
    consent_expires: date | None = None
    # It names papers, which no log is to tell.
    consent_written: str = field(default="", repr=False)
    job_id: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Derive `job_id`, the sha256 over every request field."""
        job_id = _RequestText.around(self).digest(self.prompt, self.seed)
        object.__setattr__(self, "job_id", job_id)

    def request(self) -> dict[str, str | int | float]:
        """Return every field that makes the id, in plain values that a log can hold."""
        values: dict[str, str | int | float] = dict(
            zip(REQUEST_FIELDS, _REQUEST_VALUES(self), strict=True)
        )
        values["size"] = str(self.size)
        values["loras"] = ",".join(f"{lora.weights_digest}@{lora.scale!r}" for lora in self.loras)
        return values

    @property
    def photo_digests(self) -> tuple[str, ...]:
        """sha256 of each of `photos`."""
        return tuple(self.subject_digest.split(",")) if self.subject_digest else ()

    @property
    def row_key(self) -> RowKey:
        """The row's names; the latest record under them says what changed since."""
        return RowKey(self.subject, self.prompt_name, self.seed, self.variant)

    @property
    def clip_name(self) -> str:
        """File name of the clip; two requests never share one."""
        return (
            f"{self.subject}-{self.prompt_name}-s{self.seed}-{self.variant}"
            f"-{self.job_id[:ID_CHARACTERS_IN_CLIP_NAME]}.mp4"
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """F, H, W: jobs of one variant and shape run together."""
        return (self.frames, self.size.height_px, self.size.width_px)

    @property
    def cost(self) -> int:
        """Relative length of the work: pixels times steps; the longest jobs start first."""
        return self.frames * self.size.height_px * self.size.width_px * self.steps


REQUEST_FIELDS: Mapping[str, str] = {
    f.name: f.metadata["request"] for f in fields(RenderJob) if "request" in f.metadata
}
"""Field name -> the author's word for it, for every field that makes the id."""

_REQUEST_VALUES = attrgetter(*REQUEST_FIELDS)
_LATER_FIELDS = ("gate",)


class _RequestText(NamedTuple):
    """A request as canonical JSON, cut where its prompt and its seed stand.

    Jobs that differ in these two alone share all three pieces.
    """

    before_prompt: str
    before_seed: str
    after_seed: str

    @classmethod
    def around(cls, job: RenderJob) -> _RequestText:
        """Encode all of a request but prompt and seed.

        A field that came after the first version counts only where it is set, so that a request
        without it keeps its id.
        """
        request = job.request()
        pieces: tuple[dict[str, object], ...] = ({}, {}, {})
        for name, value in request.items():
            if name not in {"prompt", "seed"} and (value or name not in _LATER_FIELDS):
                # The keys are sorted, and fields stand before, between and after these two.
                pieces[(name > "prompt") + (name > "seed")][name] = value
        before, between, after = (canonical_text(piece)[1:-1] for piece in pieces)
        return cls(f'{{{before},"prompt":', f',{between},"seed":', f",{after}}}")

    def digest(self, prompt: str, seed: int) -> str:
        text = canonical_text(prompt)
        return digest_text(f"{self.before_prompt}{text}{self.before_seed}{seed}{self.after_seed}")


class JobPattern:
    """Makes the jobs of one kind: they share all but seed, prompt, and where these are written.

    A job has three dozen fields and a campaign up to a hundred thousand jobs, of a few kinds. What
    a kind shares is looked up and encoded once, which makes a job in an eighth of the time.
    """

    def __init__(self, job: RenderJob) -> None:
        """Make jobs like this one."""
        self._text = _RequestText.around(job)
        self._shared = [
            (member.__set__, getattr(job, name))
            for name, member in _MEMBERS.items()
            if name not in _OWN_FIELDS
        ]

    def job(self, *, where: str, prompt_name: str, prompt: str, seed: int) -> RenderJob:
        """Return `replace(job, where=where, ...)` of the job that this pattern is of."""
        made = object.__new__(RenderJob)
        # A frozen value is filled through its class's slots, as `__init__` does by name.
        for put, value in self._shared:
            put(made, value)
        own = (where, prompt_name, prompt, seed, self._text.digest(prompt, seed))
        for put, value in zip(_PUT_OWN, own, strict=True):
            put(made, value)
        return made


_OWN_FIELDS = ("where", "prompt_name", "prompt", "seed", "job_id")
_MEMBERS: Mapping[str, Any] = {f.name: vars(RenderJob)[f.name] for f in fields(RenderJob)}
_PUT_OWN = tuple(_MEMBERS[name].__set__ for name in _OWN_FIELDS)


class Status(StrEnum):
    """How an attempt ended."""

    RENDERED = "rendered"
    LOW_IDENTITY = "low_identity"
    WITHHELD = "withheld"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


PUBLISHED = frozenset({Status.RENDERED, Status.LOW_IDENTITY})
"""The statuses whose attempt left a clip in `outputs/`."""


@dataclass(frozen=True, slots=True)
class PastResult:
    """The latest attempt at a request, as the log tells it.

    Attributes:
        job_id: Digest of the request.
        row_key: The row's names at that time.
        status: How the attempt ended.
        code: Why it failed, or "" when it did not.
        message: The failure in words, or "".
        clip: File name of the clip that this or an earlier attempt published, or "".
        request: `RenderJob.request()` of that time.
        finished_at: UTC, ISO 8601.
        deaths: Times in a row, to the latest attempt, that this request killed its worker.
        classifiers: Who looked at the frames of `clip`; "" if nobody did.
        tries: The latest seed of the identity gate that was rendered, counted from 1; 0 if none
            was.
        best_score: Score of `clip` if it is under the identity gate, minus infinity if it shows no
            face; else None.
    """

    job_id: str
    row_key: RowKey
    status: Status
    code: str
    message: str
    clip: str
    request: Mapping[str, str | int | float]
    finished_at: str
    deaths: int = 0
    classifiers: str = ""
    tries: int = 0
    best_score: float | None = None


class Reason(StrEnum):
    """Why a job will run."""

    NEW = "new"
    CHANGED = "changed"
    MISSING_CLIP = "missing clip"
    DAMAGED = "damaged clip"
    UNCHECKED = "not checked"
    FAILED = "failed before"
    INTERRUPTED = "interrupted"
    LOW_IDENTITY = "low identity"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job that will run.

    Attributes:
        job: The request.
        reason: The kind of reason.
        why: The reason in words, naming the field that changed.
        attempt: 1 for the first attempt at this request, counted over all runs.
        deaths: Workers that this request killed in a row before; 0 when a person asked for it
            again.
        first_try: The next seed of the identity gate to render, counted from 1; the ones before
            were rendered. Without a gate there is one seed.
        last_try: The last seed the gate may take.
        best_score: The published clip's score, if the tries before left one under the gate; minus
            infinity if it shows no face.
    """

    job: RenderJob
    reason: Reason
    why: str
    attempt: int
    deaths: int = 0
    first_try: int = 1
    last_try: int = 1
    best_score: float | None = None


@dataclass(frozen=True, slots=True)
class HeldJob:
    """A job that neither runs nor is done.

    Attributes:
        job: The request.
        why: Why it is held, and how to free it.
        withheld: Whether its clip was withheld; else it is quarantined.
    """

    job: RenderJob
    why: str
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class RenderPlan:
    """What a campaign would do.

    Attributes:
        campaign: Campaign name.
        to_run: Jobs that will run, grouped by variant and shape, longest first.
        done: Jobs whose clip and record are there.
        held: Jobs that wait for a person.
        low_identity: The done ones whose clip is under the identity gate.
        problems: What is wrong with rows that are not in the plan; empty unless bad rows are
            skipped on request.
        warnings: What a person should know of rows that are in it, once a subject.
    """

    campaign: str
    to_run: tuple[PlannedJob, ...]
    done: tuple[RenderJob, ...]
    held: tuple[HeldJob, ...]
    low_identity: tuple[RenderJob, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def most_renderings(self) -> int:
        """How many clips are rendered if none passes the identity gate."""
        return sum(planned.last_try - planned.first_try + 1 for planned in self.to_run)
