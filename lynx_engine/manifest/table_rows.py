"""Gives the cells of CSV and JSON Lines their meaning: subjects, prompts, settings, rows.

Tables repeat themselves, so each distinct combination of setting cells is judged once, by the same
models that judge YAML; a hundred thousand rows then cost little more than cutting them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lynx_engine.errors import Letter, Problem, RuleError
from lynx_engine.manifest.expand import MAX_ROWS, too_many_rows
from lynx_engine.manifest.files import read_manifest_text, read_prompt_text
from lynx_engine.manifest.letters import Place, findings, keys_at, label_of_place, letter
from lynx_engine.manifest.names import NameRegister, campaign_of, check_name, check_prompt, label_of
from lynx_engine.manifest.schema import (
    RenderSettings,
    SubjectEntry,
    check_seed,
    written_settings,
)
from lynx_engine.manifest.spreadsheets import NUMBER_COLUMNS, WHOLE_COLUMNS, what_to_write
from lynx_engine.manifest.tables import (
    COLUMNS,
    CUTTERS,
    SETTING_COLUMNS,
    SUBJECT_COLUMNS,
    Cell,
    Table,
)
from lynx_engine.manifest.values import NO_SUBJECT, Manifest, Prompt, Row, Subject, WrittenSettings
from lynx_engine.manifest.yaml_manifest import subject_of
from lynx_engine.manifest_rules import Rule

_Model = TypeVar("_Model", bound=BaseModel)

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,39})")
_NUMBER = re.compile(
    r"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][-+]?[0-9]{1,3})?"
)
_INDEX = re.compile(r"index:([0-9]{1,3})")
_BOOLEANS = {"true": True, "false": False}
_NESTED = {
    **{f"consent_{key}": ("consent", key) for key in ("basis", "scope", "expires", "evidence")},
    **{f"video_{key}": ("video", key) for key in ("codec", "crf")},
}


def read_table(path: Path) -> Manifest:
    """Return what a CSV or JSON Lines manifest says, its problems beside the sound rows.

    Raises:
        RefusedError: If the file cannot be read, or its header is wrong.
    """
    table = CUTTERS[path.suffix.lower()](read_manifest_text(path), str(path))
    reading = _Reading(path, table)
    rows = reading.rows()
    subjects = reading.subjects.checked(path.parent)
    problems = [*table.file_problems]
    if not rows and not reading.problems and not problems:
        problems.append(Letter(Rule.NO_ROWS, "there are no rows below the header").at(f"{path}:1"))
    sound = [row for row in rows if row.subject is None or row.subject in subjects]
    unsound = [row for row in rows if row.subject is not None and row.subject not in subjects]
    return Manifest(
        campaign=campaign_of(path.stem),
        path=str(path),
        subjects=subjects,
        rows=tuple(sound),
        problems=tuple(problems),
        row_problems=(*reading.problems, *reading.subjects.problems),
        suspects=(*reading.suspects, *unsound),
    )


class _CellError(ValueError):
    """Cells that cannot be used; one letter to the author for each."""

    def __init__(self, letters: Sequence[Letter]) -> None:
        self.letters = letters
        super().__init__("\n".join(letter.text for letter in letters))


@dataclass(slots=True)
class _Judged:
    """What a combination of cells turned out to be."""

    settings: WrittenSettings
    letters: Sequence[Letter] = ()


class _Reading:
    """One table while its rows are given their meaning."""

    def __init__(self, path: Path, table: Table) -> None:
        self._path = path
        self._table = table
        self._pick_subject = _Picker(table, SUBJECT_COLUMNS)
        self._pick_settings = _Picker(table, SETTING_COLUMNS)
        self._prompt_place, self._file_place, self._seed_place = (
            table.columns.index(column) if column in table.columns else None
            for column in ("prompt", "prompt_file", "seed")
        )
        self._settings: dict[object, _Judged] = {}
        self._prompts: dict[tuple[object, object], Prompt] = {}
        self.subjects = _SubjectCells(str(path), table, self._pick_subject.columns)
        self.problems: list[Problem] = []
        self.suspects: list[Row] = []

    def rows(self) -> list[Row]:
        """Return every sound row; note the problems of the others."""
        rows: list[Row] = []
        for count, (line, cells) in enumerate(self._table.rows, 1):
            if count > MAX_ROWS:
                where = f"{self._path}:{line}"
                self._table.file_problems.append(too_many_rows(count).at(where))
                break
            if isinstance(cells, Letter):
                letters = [cells]
            else:
                letters = list[Letter]()
                row = self._row(line, cells, letters)
                if not letters:
                    rows.append(row)
                elif row.settings.variant is not None:
                    self.suspects.append(row)
            self.problems += [letter.at(f"{self._path}:{line}") for letter in letters]
        return rows

    def _row(self, line: int, cells: Sequence[Cell], letters: list[Letter]) -> Row:
        prompt_cell = None if self._prompt_place is None else cells[self._prompt_place]
        file_cell = None if self._file_place is None else cells[self._file_place]
        seed_cell = None if self._seed_place is None else cells[self._seed_place]
        judged = self._judge(self._pick_settings.cells(cells))
        letters += judged.letters
        seed, prompt = 0, Prompt("", "")
        try:
            seed = (
                0 if self._table.is_blank(seed_cell) else check_seed(self._typed("seed", seed_cell))
            )
        except RuleError as error:
            rule, text = error.letter
            letters.append(Letter(rule, text + what_to_write("seed", seed_cell)))
        try:
            prompt = self._prompt(prompt_cell, file_cell)
        except RuleError as error:
            letters.append(error.letter)
        subject = None
        try:
            subject = self.subjects.take(line, self._pick_subject.cells(cells))
        except _CellError as error:
            letters += error.letters
        return Row(f"{self._path}:{line}", subject, prompt, seed, judged.settings)

    def _judge(self, cells: Sequence[Cell]) -> _Judged:
        key = tuple(cells) if self._table.is_text else repr(cells)
        judged = self._settings.get(key)
        if judged is None:
            try:
                values = _nest(_typed_cells(self._table, self._pick_settings.columns, cells))
                entry = _checked(RenderSettings, values)
                judged = _Judged(written_settings(entry, self._path.parent))
            except _CellError as error:
                judged = _Judged(WrittenSettings(), error.letters)
            self._settings[key] = judged
        return judged

    def _typed(self, column: str, cell: Cell) -> object:
        return _typed(column, cell) if self._table.is_text else cell

    def _prompt(self, text: Cell, file: Cell) -> Prompt:
        known = self._prompts.get((text, file)) if self._table.is_text else None
        return known or self._new_prompt(text, file)

    def _new_prompt(self, text: Cell, file: Cell) -> Prompt:
        if self._table.is_blank(text) == self._table.is_blank(file):
            raise RuleError(
                Rule.PROMPT_SOURCE,
                "a row takes prompt (the text) or prompt_file; fill one of them",
            )
        for column, cell in (("prompt", text), ("prompt_file", file)):
            if not self._table.is_blank(cell) and not isinstance(cell, str):
                raise RuleError(
                    Rule.WRONG_TYPE, f"{column} is {cell!r:.60}, where text is due; quote it"
                )
        known = self._prompts.get((text, file))
        if known is None:
            written = (
                str(text)
                if self._table.is_blank(file)
                else read_prompt_text(self._path.parent, str(file).strip()).strip()
            )
            known = Prompt(label_of(check_prompt(written), otherwise="prompt"), written)
            self._prompts[(text, file)] = known
        return known


class _SubjectCells:
    """Collects what the rows say of each subject, and finds where they disagree."""

    def __init__(self, path: str, table: Table, columns: Sequence[str]) -> None:
        self.problems: list[Problem] = []
        self._columns = columns
        self._path = path
        self._table = table
        self._register = NameRegister("subject")
        self._seen: dict[object, str | None] = {}
        self._cells: dict[str, dict[str, tuple[Cell, int]]] = {}

    def take(self, line: int, cells: Sequence[Cell]) -> str | None:
        """Take in a row's subject cells; return the subject's name, None for a row without.

        Raises:
            _CellError: If the name is no name, or a cell disagrees with an earlier row.
        """
        key = tuple(cells) if self._table.is_text else repr(cells)
        if key not in self._seen:
            self._seen[key] = self._learn(line, cells)
        return self._seen[key]

    def checked(self, folder: Path) -> dict[str, Subject]:
        """Return every sound subject; note the problems of the others."""
        subjects: dict[str, Subject] = {}
        for name, cells in self._cells.items():
            first_line = cells["subject"][1]
            values = {column: cell for column, (cell, _) in cells.items() if column != "subject"}
            try:
                entry = SubjectEntry.model_validate(_nest(values))
            except ValidationError as error:
                for place, detail in findings(error):
                    column = _column(place)
                    line = cells[column][1] if column in cells else first_line
                    told = _subject_letter(
                        name, _letter(SubjectEntry, place, detail), detail["type"]
                    )
                    self.problems.append(told.at(f"{self._path}:{line}"))
                continue
            where = f"{self._path}:{first_line}"
            subjects[name] = subject_of(name, entry, folder=folder, where=where)
        return subjects

    def _learn(self, line: int, cells: Sequence[Cell]) -> str | None:
        values = _typed_cells(self._table, self._columns, cells)
        name = values.get("subject")
        if name is None:
            if values:
                text = f"{next(iter(values))} is filled but subject is empty; name it"
                raise _CellError([Letter(Rule.MISSING_SUBJECT, text)])
            return None
        self._check_name(name, line)
        known = self._cells.setdefault(str(name), {})
        letters = [
            Letter(
                Rule.SUBJECT_DIFFERS,
                f"{column} of subject '{name}' is {_two_values(column, cell, known[column][0])} "
                f"at line {known[column][1]}; make them equal, or name another subject",
            )
            for column, cell in values.items()
            if column in known and known[column][0] != cell
        ]
        if letters:
            raise _CellError(letters)
        for column, cell in values.items():
            known.setdefault(column, (cell, line))
        return str(name)

    def _check_name(self, name: object, line: int) -> None:
        if not isinstance(name, str):
            text = f"subject is {name!r:.60}, where text is due; quote it"
            raise _CellError([Letter(Rule.WRONG_TYPE, text)])
        try:
            check_name(name)
        except RuleError as error:
            raise _CellError([error.letter]) from None
        if name.lower() == NO_SUBJECT:
            text = f"'{name}' stands for rows without a subject; rename it"
            raise _CellError([Letter(Rule.RESERVED_NAME, text)])
        clash = self._register.clash(name, f"{self._path}:{line}")
        if clash is not None:
            raise _CellError([Letter(Rule.NAME_CLASH, clash.text)])


class _Picker:
    """Takes the cells of some columns out of rows.

    Attributes:
        columns: Those of the columns asked for that the table has.
        cells: Gives a row's cells of these, in their order.
    """

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        self.columns = [column for column in columns if column in table.columns]
        places = [table.columns.index(column) for column in self.columns]
        self.cells: Callable[[Sequence[Cell]], Sequence[Cell]]
        if len(places) > 1:
            self.cells = itemgetter(*places)
        else:
            self.cells = lambda cells: [cells[place] for place in places]


def _typed_cells(table: Table, columns: Sequence[str], cells: Sequence[Cell]) -> dict[str, object]:
    """Return the written cells by column, text turned into the column's type where it can be."""
    written = (
        (c, cell) for c, cell in zip(columns, cells, strict=True) if not table.is_blank(cell)
    )
    if table.is_text:
        return {column: _typed(column, cell) for column, cell in written}
    return {column: _opened(column, cell) for column, cell in written}


def _typed(column: str, cell: Cell) -> object:
    text = str(cell).strip()
    if column in WHOLE_COLUMNS and _WHOLE.fullmatch(text):
        return int(text)
    if column in NUMBER_COLUMNS and _NUMBER.fullmatch(text):
        return float(text)
    if column == "synthetic":
        return _BOOLEANS.get(text.lower(), text)
    return _opened(column, text)


def _opened(column: str, cell: Cell) -> object:
    """Open the short forms of faces and LoRAs; leave everything else as it is."""
    if not isinstance(cell, str):
        return cell
    if column == "face" and (match := _INDEX.fullmatch(cell)):
        return {"index": int(match[1])}
    if column == "loras":
        return [_open_lora(part.strip()) for part in cell.split(";")]
    return cell


def _open_lora(part: str) -> dict[str, object]:
    path, at, scale = part.rpartition("@")
    if not at:
        return {"weights": part}
    return {"weights": path, "scale": float(scale) if _NUMBER.fullmatch(scale) else scale}


def _nest(values: Mapping[str, object]) -> dict[str, object]:
    """Return columns such as `video_crf` as the nested keys they are in YAML."""
    nested: dict[str, object] = {}
    for column, value in values.items():
        outer, inner = _NESTED.get(column, ("", ""))
        if outer:
            cast("dict[str, object]", nested.setdefault(outer, {}))[inner] = value
        else:
            nested[column] = value
    return nested


def _column(place: Place) -> str:
    joined = "_".join(str(step) for step in place[:2])
    return joined if joined in COLUMNS else str(place[0])


def _checked(model: type[_Model], values: Mapping[str, object]) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _CellError(
            [_letter(model, place, detail) for place, detail in findings(error)]
        ) from None


def _two_values(column: str, here: object, there: object) -> str:
    """Return two values that differ; evidence is not quoted: a schedule logs its problems."""
    if column == "consent_evidence":
        return "one text here and another"
    return f"{here!r:.60} here and {there!r:.60}"


def _letter(model: type[BaseModel], place: Place, detail: ErrorDetails) -> Letter:
    column = _column(place)
    inner = label_of_place(place, column)
    rule, text = letter(detail, column if inner in column else inner, keys_at(model, place))
    text += what_to_write(column, detail["input"])
    return Letter(rule, text if column in text else f"{column}: {text}")


def _subject_letter(name: str, told: Letter, kind: str) -> Letter:
    if kind == "missing" and "image" in told.text:
        text = f"subject '{name}' has no photo; fill its image column in one row"
        return Letter(told.rule, text)
    return Letter(told.rule, f"subject '{name}': {told.text}")
