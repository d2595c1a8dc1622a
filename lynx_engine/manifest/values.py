"""What an author wrote, checked and still blank where they wrote nothing.

These values are made by `read` and consumed by planning. They know names, lines and numbers;
they know no variant, open no file and say nothing about pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import MappingProxyType

from lynx_engine.errors import Problem
from lynx_engine.shapes import FrameSize

NO_SUBJECT = "none"
"""Subject name of jobs without a subject; no subject may carry it."""

_NO_LINES: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Consent:
    """The recorded right to use a face.

    Attributes:
        basis: What the right rests on, in the author's words, such as `contract`.
        scope: What it covers, or "".
        expires: Last day on which it holds, or None when it has no end.
        evidence: Where the paper lies, or "".
    """

    basis: str
    scope: str
    expires: date | None
    evidence: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Subject:
    """The person to keep recognisable.

    Attributes:
        name: A checked label.
        images: The photos, joined to the manifest's folder, in the author's order; at least one.
        face: Which face of each photo: `only`, `largest` or `index:N` counted from the left.
        synthetic: Whether the person is made up, so that nobody's consent is needed.
        consent: The recorded right, or None when none was written.
        where: File and line of the definition.
    """

    name: str
    images: tuple[Path, ...]
    face: str
    synthetic: bool
    consent: Consent | None
    where: str


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A low-rank adapter by its file, joined to the manifest's folder, and its scale."""

    path: Path
    scale: float


@dataclass(frozen=True, slots=True)
class WrittenSettings:
    """Render settings as written in one place; None where the author wrote nothing.

    The attributes mean what the fields of the same name mean in `RenderJob`.
    """

    variant: str | None = None
    size: FrameSize | None = None
    frames: int | None = None
    fps: int | None = None
    steps: int | None = None
    guidance_text: float | None = None
    guidance_identity: float | None = None
    scale_identity: float | None = None
    scale_reference: float | None = None
    negative_prompt: str | None = None
    precision: str | None = None
    numerics: str | None = None
    memory: str | None = None
    speed: str | None = None
    loras: tuple[LoraFile, ...] | None = None
    safety: str | None = None
    label: str | None = None
    video_codec: str | None = None
    video_crf: int | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to render and the name its clips carry."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One clip as the author asked for it.

    Attributes:
        where: File and line.
        subject: Name of a subject of the manifest, or None.
        prompt: The text and its name.
        seed: The row's seed, else the default seed, else 0.
        settings: Only what this row, or the matrix it comes from, wrote.
        key_lines: Setting -> line, for settings that stand on another line than `where`.
    """

    where: str
    subject: str | None
    prompt: Prompt
    seed: int
    settings: WrittenSettings
    key_lines: Mapping[str, int] = field(default_factory=lambda: _NO_LINES)

    def where_of(self, setting: str) -> str:
        """Return file and line of one written setting."""
        line = self.key_lines.get(setting)
        return self.where if line is None else f"{self.where.rpartition(':')[0]}:{line}"


@dataclass(frozen=True, slots=True)
class Gate:
    """The identity gate: keep a clip only if its faces resemble the subject photo.

    Attributes:
        min_score: Least mean likeness that passes, 0 to 1 on the evaluator's scale.
        attempts: Seeds tried at most for one row.
        keep: Which clip stays published if none passes: the `best` one, or the `first`.
        where: File and line.
    """

    min_score: float
    attempts: int
    keep: str
    where: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What someone wants rendered.

    Attributes:
        campaign: A checked label: the written name, else one made from the file's stem.
        path: The file, as the user gave it.
        subjects: Every sound subject by name.
        rows: Every sound row, in the author's order, products expanded.
        defaults: Settings for rows that wrote none of their own.
        defaults_where: Setting -> file and line, for the settings in `defaults`.
        gate: The identity gate, or None.
        problems: Faults of the file as a whole; empty unless it was read leniently.
        row_problems: Faults whose rows are missing from `rows`; empty unless read leniently.
        suspects: Rows left out for a fault of their names, kept for what else is wrong with their
            settings; they never render.
    """

    campaign: str
    path: str
    subjects: Mapping[str, Subject]
    rows: tuple[Row, ...]
    defaults: WrittenSettings = WrittenSettings()
    defaults_where: Mapping[str, str] = field(default_factory=dict[str, str])
    gate: Gate | None = None
    problems: tuple[Problem, ...] = ()
    row_problems: tuple[Problem, ...] = ()
    suspects: tuple[Row, ...] = ()
