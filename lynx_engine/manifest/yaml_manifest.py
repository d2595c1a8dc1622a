"""Reads a YAML manifest: guarded events, plain values, checked models, expanded rows.

It gathers every problem with its line instead of stopping at the first. CSV and JSON Lines have
their own reader; what the rows mean together is planning's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lynx_engine.errors import Letter, Problem, RefusedError, RuleError
from lynx_engine.manifest.expand import (
    MAX_ROWS,
    Entry,
    Expander,
    ExpansionError,
    Names,
    prompts_of,
    too_many_rows,
)
from lynx_engine.manifest.files import read_manifest_text
from lynx_engine.manifest.letters import (
    Place,
    findings,
    is_unknown_key,
    keys_at,
    label_of_place,
    letter,
)
from lynx_engine.manifest.matrix_schema import ManifestFile, MatrixEntry
from lynx_engine.manifest.names import NameRegister, campaign_of
from lynx_engine.manifest.schema import Defaults, RowEntry, SubjectEntry, written_settings
from lynx_engine.manifest.values import (
    NO_SUBJECT,
    Consent,
    Gate,
    Manifest,
    Prompt,
    Row,
    Subject,
)
from lynx_engine.manifest.yaml_lines import Lines, MappingLines, line_at, lines_of, load_yaml
from lynx_engine.manifest_rules import Rule

_Model = TypeVar("_Model", bound=BaseModel)
# Each costs some 50 us: further unknown keys are told without the nearest known one, and of a
# mapping that has more, the rest is counted.
_MOST_SUGGESTIONS = 1000
_ENTRIES: Mapping[str, type[BaseModel]] = {"rows": RowEntry, "matrix": MatrixEntry}


def read_yaml(path: Path) -> Manifest:
    """Return what a YAML manifest says, its problems kept beside the sound rows.

    Raises:
        RefusedError: If the file cannot be read, or the guard refuses it.
    """
    shown = str(path)
    lined = load_yaml(read_manifest_text(path), shown)
    values, lines = lined.value, lined.lines
    if not isinstance(values, dict):
        text = "a manifest is a mapping with the keys subjects, prompts and rows; see the README"
        raise RefusedError([Problem(f"{shown}:1", text, Rule.WRONG_TYPE)])
    return _Reading(path, cast("dict[str, object]", values), lines).manifest()


def subject_of(name: str, entry: SubjectEntry, *, folder: Path, where: str) -> Subject:
    """Return a checked entry as a subject, the paths of its photos joined to `folder`."""
    consent = entry.consent
    return Subject(
        name=name,
        images=tuple(folder / image for image in entry.image),
        face=entry.face or "only",
        synthetic=bool(entry.synthetic),
        consent=None
        if consent is None
        else Consent(consent.basis, consent.scope or "", consent.expires, consent.evidence or ""),
        where=where,
    )


@dataclass(slots=True)
class _Reading:
    """One manifest while it is read."""

    path: Path
    values: Mapping[str, object]
    lines: Lines
    file_problems: list[Problem] = field(default_factory=list[Problem])
    row_problems: list[Problem] = field(default_factory=list[Problem])
    suspects: list[Row] = field(default_factory=list[Row])
    suggestions: int = 0

    def manifest(self) -> Manifest:
        head = self._head()
        defaults = head.defaults or Defaults()
        names, subjects = self._names(head)
        expander = Expander(names, self.path.parent, defaults.seed or 0)
        rows = [
            *self._rows("rows", RowEntry, expander.expand_row),
            *self._rows("matrix", MatrixEntry, expander.expand_matrix),
        ]
        if not self.values.get("rows") and not self.values.get("matrix"):
            told = Letter(Rule.NO_ROWS, "there are no rows; write rows: or matrix:")
            self._note(self.file_problems, (), told)
        return Manifest(
            campaign=head.campaign or campaign_of(self.path.stem),
            path=str(self.path),
            subjects=subjects,
            rows=tuple(rows),
            defaults=written_settings(defaults, self.path.parent),
            defaults_where=self._defaults_where(),
            gate=self._gate(head),
            problems=tuple(self.file_problems),
            row_problems=tuple(self.row_problems),
            suspects=tuple(self.suspects),
        )

    def _where(self, place: Sequence[str | int]) -> str:
        return f"{self.path}:{line_at(self.lines, place)}"

    def _note(self, problems: list[Problem], place: Sequence[str | int], told: Letter) -> None:
        problems.append(told.at(self._where(place)))

    def _head(self) -> ManifestFile:
        """Check everything but the entries of rows and matrix; leave out what is unsound."""
        values: dict[str, Any] = {
            key: [] if key in _ENTRIES and isinstance(value, list) else value
            for key, value in self.values.items()
        }
        try:
            return ManifestFile.model_validate(values)
        except ValidationError as error:
            found = findings(error)
        for place, detail in self._few_unknown_keys(found, ()):
            of_rows = len(place) > 1 and place[0] in {"subjects", "prompts"}
            label = _label(place)
            told = letter(detail, label, self._known(ManifestFile, place))
            self._note(self.row_problems if of_rows else self.file_problems, place, told)
        for place, _ in found:
            _leave_out(values, place)
        return ManifestFile.model_validate(values)

    def _names(self, head: ManifestFile) -> tuple[Names, dict[str, Subject]]:
        subjects: dict[str, Subject] = {}
        prompts: dict[str, tuple[Prompt, ...]] = {}
        register = NameRegister("subject")
        for name, entry in (head.subjects or {}).items():
            where = self._where(("subjects", name))
            if self._take_name(register, name, where):
                subjects[name] = subject_of(name, entry, folder=self.path.parent, where=where)
        register = NameRegister("prompt")
        for name, entry in (head.prompts or {}).items():
            where = self._where(("prompts", name))
            if not self._take_name(register, name, where):
                continue
            try:
                prompts[name] = prompts_of(name, entry, self.path.parent)
            except RuleError as error:
                told = Letter(error.letter.rule, f"prompt '{name}': {error}")
                self.row_problems.append(told.at(where))
        self._open_lines(prompts)
        return (
            Names(
                subjects=frozenset(subjects),
                prompts=prompts,
                broken_subjects=self._written("subjects") - frozenset(subjects),
                broken_prompts=self._written("prompts") - frozenset(prompts),
            ),
            subjects,
        )

    def _take_name(self, register: NameRegister, name: str, where: str) -> bool:
        clash = register.clash(name, where)
        if clash is None and register.kind == "subject" and name.lower() == NO_SUBJECT:
            text = f"'{name}' stands for rows without a subject; rename it"
            clash = Problem(where, text, Rule.RESERVED_NAME)
        if clash is not None:
            self.row_problems.append(clash)
        return clash is None

    def _open_lines(self, prompts: dict[str, tuple[Prompt, ...]]) -> None:
        """Give every line of a prompt file its own name beside the file's."""
        for name, lines in list(prompts.items()):
            for prompt in lines:
                if prompt.name in prompts and prompt.name != name:
                    where = self._where(("prompts", prompt.name))
                    text = (
                        f"prompt '{prompt.name}' is also a line of prompt file '{name}'; rename one"
                    )
                    self.row_problems.append(Problem(where, text, Rule.NAME_CLASH))
                prompts.setdefault(prompt.name, (prompt,))

    def _written(self, section: str) -> frozenset[str]:
        written = self.values.get(section)
        return (
            frozenset(cast("dict[str, object]", written))
            if isinstance(written, dict)
            else frozenset()
        )

    def _rows(
        self, section: str, model: type[_Model], expand: Callable[[_Model, Entry], list[Row]]
    ) -> list[Row]:
        rows: list[Row] = []
        for index, value in enumerate(self._listed(section)):
            place = (section, index)
            entry, is_sound = self._checked(model, value, place)
            if entry is None:
                continue
            found = self._expanded(partial(expand, entry), place, value, is_sound=is_sound)
            rows += found
            if isinstance(entry, RowEntry) and not found:
                self._keep_suspect(entry, self._entry(place, value))
        return rows

    def _keep_suspect(self, entry: RowEntry, at: Entry) -> None:
        """Keep the settings of a row that is left out: planning tells what is wrong with them."""
        if entry.variant is None and "variant" in at.keys:
            return  # refused already; without it nothing can be said of the others
        settings = written_settings(entry, self.path.parent)
        self.suspects.append(Row(at.where, None, Prompt("", ""), 0, settings, at.key_lines))

    def _expanded(
        self, expand: Callable[[Entry], list[Row]], place: Place, value: object, *, is_sound: bool
    ) -> list[Row]:
        """Return the rows of a sound entry; look up the names of an unsound one all the same."""
        try:
            rows = expand(self._entry(place, value))
        except ExpansionError as error:
            for key, rule, text in error.faults:
                # What else an unsound entry lacks may be what was refused already.
                if is_sound or key in {"subject", "prompt", "text"}:
                    at = (*place, key) if key else place
                    self._note(self.row_problems, at, Letter(rule, text))
            return []
        return rows if is_sound else []

    def _listed(self, section: str) -> list[object]:
        value = self.values.get(section)
        listed = cast("list[object]", value) if isinstance(value, list) else []
        if len(listed) > MAX_ROWS:
            self._note(self.file_problems, (section,), too_many_rows(len(listed)))
            return []
        return listed

    def _checked(
        self, model: type[_Model], value: object, place: Place
    ) -> tuple[_Model | None, bool]:
        """Return the entry, and whether all of it is sound; what is not is noted and left out."""
        try:
            return model.model_validate(value), True
        except ValidationError as error:
            found = findings(error)
        for inner, detail in self._few_unknown_keys(found, place):
            told = letter(detail, label_of_place(inner, "a row"), self._known(model, inner))
            self._note(self.row_problems, (*place, *inner), told)
        if not isinstance(value, dict):
            return None, False
        unsound = {inner[0] for inner, _ in found if inner}
        rest = {k: v for k, v in cast("dict[str, object]", value).items() if k not in unsound}
        return model.model_validate(rest), False

    def _few_unknown_keys(
        self, found: list[tuple[Place, ErrorDetails]], place: Place
    ) -> list[tuple[Place, ErrorDetails]]:
        """Return the findings in the value at `place`; of very many unknown keys note the count."""
        unknown = [number for number, (_, detail) in enumerate(found) if is_unknown_key(detail)]
        beyond = set(unknown[_MOST_SUGGESTIONS:])
        if beyond:
            first = min(beyond)
            text = f"{len(beyond):,} more unknown keys from here on; remove them"
            where = (*place, *found[first][0])
            self._note(self.row_problems, where, Letter(Rule.UNKNOWN_KEY, text))
        return [finding for number, finding in enumerate(found) if number not in beyond]

    def _known(self, model: type[BaseModel], place: Place) -> tuple[str, ...]:
        """Return the keys that may stand at a place, to name the nearest; none after many."""
        self.suggestions += 1
        return tuple(keys_at(model, place)) if self.suggestions <= _MOST_SUGGESTIONS else ()

    def _entry(self, place: Place, value: object) -> Entry:
        lines = lines_of(self.lines, place)
        keys = tuple(cast("dict[str, object]", value))
        start = line_at(lines, ())
        return Entry(f"{self.path}:{start}", _key_lines(lines, start), keys)

    def _defaults_where(self) -> dict[str, str]:
        lines = self.lines.inner.get("defaults") if isinstance(self.lines, MappingLines) else None
        if not isinstance(lines, MappingLines):
            return {}
        return {key: f"{self.path}:{line}" for key, line in _key_lines(lines, 0).items()}

    def _gate(self, head: ManifestFile) -> Gate | None:
        gate = head.identity
        if gate is None:
            return None
        where = self._where(("identity",))
        return Gate(gate.min_score, gate.attempts or 1, gate.keep or "best", where)


def _key_lines(lines: Lines, start: int) -> dict[str, int]:
    """Return setting -> line for keys on other lines than `start`."""
    if not isinstance(lines, MappingLines):
        return {}
    found = {key: line for key, line in lines.keys.items() if line != start}
    if "video" in lines.keys:
        inner = lines.inner["video"]
        for key in ("codec", "crf"):
            line = (
                line_at(inner, (key,)) if isinstance(inner, MappingLines) else lines.keys["video"]
            )
            if line != start:
                found[f"video_{key}"] = line
    return found


def _label(place: Place) -> str:
    if len(place) == 3 and place[0] == "prompts" and place[2] == "text":
        return f"prompt '{place[1]}'"
    if len(place) == 2 and place[0] in {"subjects", "prompts"}:
        return f"{str(place[0]).removesuffix('s')} '{place[1]}'"
    return label_of_place(place, "the manifest")


def _leave_out(values: dict[str, Any], place: Place) -> None:
    """Remove the smallest part that the rest can do without: a subject, a prompt, a setting."""
    inside = values.get(str(place[0])) if place else None
    if (
        len(place) > 1
        and isinstance(inside, dict)
        and place[0] in {"subjects", "prompts", "defaults"}
    ):
        smaller = {k: v for k, v in cast("dict[str, object]", inside).items() if k != place[1]}
        values[str(place[0])] = smaller
    elif place:
        values.pop(str(place[0]), None)
