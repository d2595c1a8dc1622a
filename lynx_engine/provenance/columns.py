"""Says what each column of the log means, in words made from the record's own docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from lynx_engine.provenance.schema import (
    SCHEMA_VERSION,
    ProvenanceRecord,
    column_defaults,
    record_columns,
)

GROUPS: Mapping[str, str] = {
    "schema_version": "The attempt",
    "where": "The row",
    "consent": "Who allowed it",
    "subject_digest": "What was asked",
    "rendered_seed": "Under an identity gate",
    "clip": "What came out",
    "device": "The device, and how it was used",
    "evaluator": "Likeness, looks, safety",
    "load_s": "Time and memory",
    "engine_version": "Versions, weights, licences",
}
"""First column of a group -> its heading; a group ends where the next one begins."""

_UNITS: Mapping[str, str] = {
    "fps": "frames/s",
    "clip_fps": "frames/s",
    "clip_bitrate": "bit/s",
    "frames": "frames",
    "clip_frames": "frames",
    "score_frames": "frames",
    "size": "px",
    "clip_size": "px",
    "face_share": "0 to 1",
    "identity_slope": "1/s",
    "motion": "short sides/s",
    "sharpness": "luma levels²",
    "streamed_blocks": "blocks",
    "cached_passes": "predictions",
}
_ENDINGS: Mapping[str, str] = {"_s": "s", "_bytes": "bytes"}
_TYPES: Mapping[str, str] = {
    "int": "integer",
    "float": "number",
    "str": "text",
    "bool": "true or false",
    "datetime": "time, UTC, in µs",
}
_COLUMN = re.compile(r"^    (\w+): (.+(?:\n {8,}.+)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the log.

    Attributes:
        name: Its name.
        type: Type in words; what may be missing says "or null".
        unit: Of its numbers, or "".
        meaning: What it tells.
        default: What a record reads as that was made before the column came, as JSON would write
            it; None where no record lacks it.
    """

    name: str
    type: str
    unit: str
    meaning: str
    default: str | None


@cache
def columns() -> tuple[Column, ...]:
    """Return every column in order."""
    words = inspect.getdoc(ProvenanceRecord) or ""
    meanings = {name: " ".join(text.split()) for name, text in _COLUMN.findall(words)}
    types = {name: str(kind) for name, kind in ProvenanceRecord.__annotations__.items()}
    defaults = column_defaults()
    return tuple(
        Column(
            name=name,
            type=_type_in_words(types[name]),
            unit=_unit_of(name),
            meaning=meanings[name],
            default=_value_in_words(defaults[name]) if name in defaults else None,
        )
        for name in record_columns()
    )


def _type_in_words(annotation: str) -> str:
    kind, _, null = annotation.partition(" | ")
    return _TYPES[kind] + (" or null" if null else "")


def _unit_of(name: str) -> str:
    ending = next((unit for end, unit in _ENDINGS.items() if name.endswith(end)), "")
    return _UNITS.get(name, ending)


def _value_in_words(value: str | float | None) -> str:
    if value is None:
        return "null"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def provenance_page() -> str:
    """Return docs/provenance.md: every column, the rule for versions, and how to ask the log."""
    lines = [*_HEAD.format(version=SCHEMA_VERSION).splitlines()]
    for column in columns():
        if column.name in GROUPS:
            lines += ["", f"### {GROUPS[column.name]}", ""]
            lines += ["| column | type | unit | meaning | older records |", "|---|---|---|---|---|"]
        default = "" if column.default is None else f"`{column.default}`"
        meaning = column.meaning.replace("|", r"\|")
        lines.append(f"| `{column.name}` | {column.type} | {column.unit} | {meaning} | {default} |")
    return "\n".join([*lines, "", *_TAIL.splitlines(), ""])


_HEAD = """\
# The log: one record an attempt

<!-- Made by `make schema` from the docstring of lynx_engine/provenance/schema.py. -->

`outputs/<campaign>/provenance/` holds one record for every attempt at every row, in parquet files
that never change: a part for each attempt, folded into one file when a run ends. A file's name ends
with the first half of its sha256, and `index` lists the names, so that damage and loss are seen.
This is schema version {version}.

## Columns

"Older records" is what a record reads as that was made before the column came: not known."""

_TAIL = """\
## Versions

1. A column is only ever added, with a default that says "not known". The schema version stays;
   older records read as if they held that default.
2. A column whose meaning changes, or that goes, makes a new version, and a function in
   `lynx_engine/provenance/upgrade.py` that turns records of the version before into the new ones.
3. Old files stay as they are: records are upgraded when they are read, and when a log is folded.
4. Records of a newer version, or with columns that this program does not know, are refused with the
   advice to upgrade lynx_engine. Nothing is dropped silently.

Records of the first days told `identity_s` and `reference_s` apart; they read as their sum,
`subject_s`.

## Asking

`lynx-engine log CAMPAIGN` lists attempts, `--where` filters them by any column, `--group` counts
them, `--sql` asks anything, `--csv`, `--parquet` and `--json` take the answer elsewhere:

```console
$ lynx-engine log --where "status = 'failed' and total_s > 60"
$ lynx-engine log autumn --group variant,status
$ lynx-engine log --sql "SELECT device_name, sum(total_s) / 3600 AS hours FROM log GROUP BY 1"
```

Any program that reads parquet reads the files as they are. `union_by_name` gives older files the
columns that they lack, as null:

```sql
SELECT status, count(*)
FROM read_parquet('outputs/autumn/provenance/*.parquet', union_by_name = true)
GROUP BY status;
```

Between a fold and the deletion of the parts it replaces, a record may stand in two files for a
moment; lynx_engine reads it once, by `run_id`, `job_id`, `attempt`, `status` and `finished_at`."""
