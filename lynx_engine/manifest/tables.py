"""Cuts CSV and JSON Lines into numbered rows of cells; what a cell means is `table_rows`' business.

Both formats give the same columns. In CSV a cell is text and an empty one means the default; in
JSON Lines a value has its type, and an absent or null one means the default.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from lynx_engine.errors import Letter, Problem, RefusedError, RuleError, nearest
from lynx_engine.manifest.schema import RenderSettings
from lynx_engine.manifest.spreadsheets import is_error_value, told_separator
from lynx_engine.manifest_rules import Rule

SUBJECT_COLUMNS = (
    "subject",
    "image",
    "face",
    "synthetic",
    "consent_basis",
    "consent_scope",
    "consent_expires",
    "consent_evidence",
)
SETTING_COLUMNS = (
    *(name for name in RenderSettings.model_fields if name != "video"),
    "video_codec",
    "video_crf",
)
_MOST_DIGITS = 40
# Of a header or row with more, only the count is told.
_MOST_COLUMNS, _MOST_UNKNOWN = 1000, 20
DELIMITERS = (",", ";", "\t")
COLUMNS = (*SUBJECT_COLUMNS, "prompt", "prompt_file", "seed", *SETTING_COLUMNS)
_KNOWN = frozenset(COLUMNS)

Cell = object
"""Text in CSV, a JSON value in JSON Lines; None where there is no such column or key."""


class _CsvReader(Protocol):
    """What `csv.reader` returns; its own type has no public name before Python 3.13."""

    @property
    def line_num(self) -> int: ...

    def __iter__(self) -> Iterator[list[str]]: ...


@dataclass(slots=True)
class Table:
    """The rows of a file, cut but not judged.

    Attributes:
        columns: Column names, in the order of the cells.
        rows: Line number of each row, and its cells, or why it has none.
        is_text: Whether every cell is text, as in CSV.
        file_problems: Faults of the file as a whole; they appear while `rows` is iterated.
    """

    columns: tuple[str, ...]
    rows: Iterator[tuple[int, Sequence[Cell] | Letter]]
    is_text: bool
    file_problems: list[Problem] = field(default_factory=list[Problem])

    def is_blank(self, cell: Cell) -> bool:
        """Return whether the author wrote nothing: an empty cell in CSV, null in JSON Lines."""
        return cell is None or (self.is_text and not str(cell).strip())


def cut_csv(text: str, path: str) -> Table:
    """Cut a CSV file with a header, as spreadsheets write it.

    Cells end at commas; at semicolons or tabs when the header has no comma; or at what a first line
    such as `sep=;` says. Columns without a name at the end, and rows of empty cells, are nothing.

    Raises:
        RefusedError: If the header is missing, or names a column twice or an unknown one.
    """
    lines = io.StringIO(text, newline="")
    delimiter, skipped = _delimiter(lines)
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader, list[str]())]
    except csv.Error as error:
        raise RefusedError([_not_csv(path, skipped + 1, error)]) from None
    while header and not header[-1]:
        header.pop()
    problems = list(_header_problems(header, f"{path}:{skipped + 1}"))
    if problems:
        raise RefusedError(problems)
    table = Table(tuple(header), iter(()), is_text=True)
    table.rows = _csv_rows(reader, table, path, skipped)
    return table


def _delimiter(lines: io.StringIO) -> tuple[str, int]:
    """Return what ends cells, and how many lines stand before the header, `lines` being there."""
    first_line = lines.readline().rstrip("\r\n")
    told = told_separator(first_line)
    if told is not None:
        return told, 1
    lines.seek(0)
    return next((mark for mark in DELIMITERS if mark in first_line), ","), 0


def cut_json_lines(text: str, path: str) -> Table:
    """Cut a JSON Lines file: one object a line, blank lines skipped."""
    del path  # every fault is a row's
    return Table(COLUMNS, _json_rows(text), is_text=False)


def _header_problems(header: Sequence[str], where: str) -> Iterator[Problem]:
    if not header:
        yield Problem(
            where,
            "the first line must name the columns, such as subject,image,prompt",
            Rule.HEADER,
        )
    if len(header) > _MOST_COLUMNS:
        text = f"the header names {len(header):,} columns; there are {len(COLUMNS)} to choose from"
        yield Problem(where, text, Rule.HEADER)
        return
    for number, name in enumerate(header, 1):
        if not name:
            yield Problem(where, f"column {number} has no name; name it or delete it", Rule.HEADER)
        elif name not in COLUMNS:
            yield Problem(
                where,
                f"unknown column {name!r}{nearest(name, COLUMNS) or '; remove it'}",
                Rule.UNKNOWN_KEY,
            )
        elif name in header[: number - 1]:
            first = header.index(name) + 1
            yield Problem(
                where,
                f"column '{name}' stands twice, as columns {first} and {number}; delete one",
                Rule.DUPLICATE_KEY,
            )


def _csv_rows(
    reader: _CsvReader, table: Table, path: str, skipped: int
) -> Iterator[tuple[int, Sequence[Cell] | Letter]]:
    width = len(table.columns)
    line = skipped + reader.line_num + 1
    try:
        for cells in reader:
            if not any(map(str.strip, cells)):
                pass  # spreadsheets end a table with rows of delimiters
            elif failed := [cell.strip() for cell in cells if "#" in cell and is_error_value(cell)]:
                text = f"{failed[0]} is an error of the spreadsheet; mend the cell and export again"
                yield line, Letter(Rule.SPREADSHEET_ERROR, text)
            elif len(cells) == width:
                yield line, cells
            elif len(cells) > width and not any(map(str.strip, cells[width:])):
                yield line, cells[:width]
            else:
                count = f"{len(cells)} cell{'' if len(cells) == 1 else 's'}"
                text = (
                    f"the row has {count}, the header {width}; quote cells that hold the delimiter"
                )
                yield line, Letter(Rule.RAGGED_ROW, text)
            line = skipped + reader.line_num + 1
    except csv.Error as error:
        table.file_problems.append(_not_csv(path, line, error))


def _not_csv(path: str, line: int, error: csv.Error) -> Problem:
    reasons = {
        "unexpected end of data": 'a quote opens in this row and never closes; add the closing "',
        f"field larger than field limit ({csv.field_size_limit()})": "a cell here is larger than "
        "128 KB; shorten it, or close the quote that opens it",
    }
    text = reasons.get(str(error), f'not valid CSV: {error}; write a quote inside quotes as ""')
    return Problem(f"{path}:{line}", text, Rule.NOT_CSV)


def _json_rows(text: str) -> Iterator[tuple[int, Sequence[Cell] | Letter]]:
    # Only line feeds separate rows: a JSON text may hold every other line break.
    for line, written in enumerate(text.split("\n"), 1):
        if not written.strip():
            continue
        try:
            values = _known_keys(_JSON.decode(written))
        except (ValueError, RecursionError) as error:
            yield line, _json_letter(error)
        else:
            yield line, [values.get(column) for column in COLUMNS]


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise RuleError(Rule.DUPLICATE_KEY, f"{twice!r} is written twice in this row; delete one")
    return values


def _refuse_constant(name: str) -> object:
    raise RuleError(Rule.NOT_JSON, f"{name} is not a number; write one")


def _read_whole(text: str) -> int:
    # Python refuses to convert more than 4,300 digits, in words meant for programmers.
    if len(text) > _MOST_DIGITS:
        raise RuleError(
            Rule.OUT_OF_RANGE, f"{text[:20]}… has {len(text):,} digits; no setting takes so many"
        )
    return int(text)


# Made once: json.loads would build a decoder for each of a hundred thousand rows.
_JSON = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_int=_read_whole
)


def _known_keys(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise RuleError(
            Rule.WRONG_TYPE, 'a row is an object, as in {"subject": "host", "prompt": "..."}'
        )
    values = cast("dict[str, object]", value)
    unknown = [name for name in values if name not in _KNOWN]
    if unknown:
        shown = unknown[:_MOST_UNKNOWN]
        advice = [f"{name!r}{nearest(name, COLUMNS) or '; remove it'}" for name in shown]
        if len(unknown) > len(shown):
            advice.append(f"{len(unknown) - len(shown):,} more")
        raise RuleError(Rule.UNKNOWN_KEY, f"unknown key {' and '.join(advice)}")
    return values


def _json_letter(error: ValueError | RecursionError) -> Letter:
    if isinstance(error, RuleError):
        return error.letter
    if isinstance(error, RecursionError):
        return Letter(Rule.TOO_DEEP, "nested too deeply; a row needs three levels")
    if isinstance(error, json.JSONDecodeError):
        text = f"not valid JSON at column {error.colno}: {error.msg}"
        return Letter(Rule.NOT_JSON, text)
    return Letter(Rule.NOT_JSON, str(error))


CUTTERS: dict[str, Callable[[str, str], Table]] = {".csv": cut_csv, ".jsonl": cut_json_lines}
"""Suffix -> how to cut the file's text; the second argument is its path, for messages."""
