"""Opens a manifest: YAML, CSV or JSON Lines by its suffix.

This is the door other packages use; each format has its own module behind it.
"""

from __future__ import annotations

from pathlib import Path

from lynx_engine.collector import collector_at_rest
from lynx_engine.errors import Problem, RefusedError
from lynx_engine.manifest.table_rows import read_table
from lynx_engine.manifest.values import Manifest
from lynx_engine.manifest.yaml_manifest import read_yaml
from lynx_engine.manifest_rules import Rule

_READERS = {".yaml": read_yaml, ".yml": read_yaml, ".csv": read_table, ".jsonl": read_table}
SUFFIXES = frozenset(_READERS)


@collector_at_rest()
def read_manifest(path: Path | str, *, lenient: bool = False) -> Manifest:
    """Read what an author wrote, and check every value that needs no variant to be judged.

    Args:
        path: The file. Messages show it as it is given here.
        lenient: Keep the problems in the manifest, beside the rows that are sound, for
            `plan_renders` to refuse together with its own.

    Raises:
        RefusedError: With every problem found. Even leniently: if the file cannot be read as
            text, or is not YAML or CSV at all.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise RefusedError(
            [
                Problem(
                    str(path),
                    "a manifest ends in .yaml, .yml, .csv or .jsonl; rename the file",
                    Rule.FILE_TYPE,
                )
            ]
        )
    manifest = reader(path)
    problems = (*manifest.problems, *manifest.row_problems)
    if problems and not lenient:
        raise RefusedError(in_file_order(problems))
    return manifest


def in_file_order(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """Return the problems once each, those with a line number in the order of their lines."""
    return tuple(sorted(dict.fromkeys(problems), key=_line))


def _line(problem: Problem) -> int:
    tail = problem.where.rpartition(":")[2]
    return int(tail) if tail.isdecimal() else 0
