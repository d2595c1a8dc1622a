"""Packs a report's rows into one small JSON text that may stand inside a page.

Every text stands once, in a list; rows name it by its number. So a thousand rows of the same
settings cost little more than one. What could end the element that holds it, or be taken for
markup, is written as an escape.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from lynx_engine.identity.evaluators import threshold_of
from lynx_engine.report.details import (
    MEANING,
    commands_of,
    details_of,
    sections,
    under_gate,
    what_to_do,
)
from lynx_engine.report.report_data import STAGES, STATUSES, Row
from lynx_engine.report.texts import visible
from lynx_engine.survey import CLIPS_FOLDER, POSTERS_FOLDER, poster_name

_LONGEST_TEXT = 4_000
_STDERR_IN_ALL = 400_000
_LEAST_STDERR, _MOST_STDERR = 200, 2_000
_MOST_ATTEMPTS = 30

# In JSON these can stand in texts alone, where an escape is the same text.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(slots=True)
class _Texts:
    """Texts by number, each once, made safe to show."""

    listed: list[str] = field(default_factory=list[str])
    _numbers: dict[str, int] = field(default_factory=dict[str, int])

    def number(self, text: str) -> int:
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.listed)
            self.listed.append(visible(text, keep_newlines=True))
        return found


def clip_link(row: Row) -> str:
    """Return the address of a row's clip relative to the page; "" without one."""
    return f"{CLIPS_FOLDER}/{quote(row.clip, safe='')}" if row.is_there else ""


def poster_link(row: Row, posters: Iterable[str]) -> str:
    """Return the address of a row's poster, "" if it is not among the files `posters`."""
    name = poster_name(row.clip)
    return f"{POSTERS_FOLDER}/{quote(name, safe='')}" if row.is_there and name in posters else ""


def pack(rows: Iterable[Row], *, posters: Iterable[str], photos: Mapping[str, str]) -> str:
    """Return the rows as JSON.

    The keys: `texts`; `sections`, title and labels of the drawer's lists; `stages`; `photos`, keyed
    by subject; `rows`, of which each is an object with short keys that `report.js` names at its
    head.

    Args:
        rows: What to pack.
        posters: File names of the posters that are there.
        photos: Subject -> data URI of a small photo.
    """
    texts = _Texts()
    posters = frozenset(posters)
    listed = list(rows)
    failing = sum(bool(row.record["stderr"]) for row in listed)
    room = max(_LEAST_STDERR, min(_MOST_STDERR, _STDERR_IN_ALL // max(failing, 1)))
    packed = [_pack_row(row, texts, posters, room) for row in listed]
    return as_json(
        {
            "sections": [[title, list(labels)] for title, labels in sections()],
            "stages": STAGES,
            "words": MEANING,
            "order": STATUSES,
            "photos": [[visible(name), uri] for name, uri in photos.items()],
            "texts": texts.listed,
            "rows": packed,
        }
    )


def as_json(value: object) -> str:
    """Return JSON that may stand in a page: without `<`, `>`, `&` and line separators.

    Raises:
        ValueError: If a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half a surrogate pair has no UTF-8.
    return _HALF.sub("\ufffd", text.translate(_ESCAPES))


def _pack_row(row: Row, texts: _Texts, posters: frozenset[str], stderr_room: int) -> dict[str, Any]:
    made, number = row.made, texts.number
    tail = row.record["stderr"]
    message = row.record["message"] or under_gate(row)
    packed: dict[str, Any] = {
        "id": row.job_id,
        "s": row.status,
        "n": [number(str(made[name])) for name in ("subject", "prompt_name", "seed", "variant")],
        "p": number(made["prompt"]),
        "d": [[number(text) for text in part] for part in details_of(row)],
        "do": [[number(word), number(command)] for word, command in commands_of(row)],
        "t": [_short(made[f"{stage}_s"], 2) or 0 for stage in STAGES],
        "a": [
            [
                a.status,
                number(a.code),
                f"{a.finished_at:%Y-%m-%d %H:%M}",
                _short(a.total_s, 1) or 0,
                number(str(a.seed)),
                number(_cut(a.message, 300)),
            ]
            for a in row.attempts[-_MOST_ATTEMPTS:]
        ],
    }
    optional = {
        "c": clip_link(row),
        "i": poster_link(row, posters),
        "k": row.record["code"],
        "m": number(_cut(message, _LONGEST_TEXT)) if message else "",
        "e": number(f"{'…' * (len(tail) > stderr_room)}{tail[-stderr_room:]}") if tail else "",
        "w": number(what_to_do(row)) if what_to_do(row) else "",
        "o": 1 if row.is_older else None,
        "b": 1 if row.made is not row.record else None,
        "l": _short(made["identity_mean"], 3),
        "h": _short(threshold_of(made["evaluator_calibration"]), 3),
        "x": _scores(made["identity_scores"]),
    }
    # 0 stays: it is the number of a text, or a score.
    return packed | {key: value for key, value in optional.items() if value not in ("", None, [])}


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _short(value: float | None, digits: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)


def _scores(text: str) -> list[list[float | None]]:
    """Return likeness over time; nothing of a column that holds something else."""
    try:
        return [[_short(at, 2), _short(score, 3)] for at, score in json.loads(text)]
    except (ValueError, TypeError):
        return []
