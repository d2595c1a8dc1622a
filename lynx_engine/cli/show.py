"""`lynx-engine show`: everything that is recorded of one clip or row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import JsonOption

if TYPE_CHECKING:
    import polars as pl

EXAMPLE = "Example: lynx-engine show outputs/quickstart/clips/*-s1-tiny-*.mp4"

_SHORTEST_ID = 6


def command(
    what: Annotated[
        list[str], typer.Argument(help="A clip, also a renamed copy, or the beginning of a job id.")
    ],
    json: JsonOption = False,
) -> None:
    """Find the record of a clip by its content, or of a row by its id, and print it."""
    from lynx_engine.cli.console import say, say_json, show_fields
    from lynx_engine.cli.records import all_records
    from lynx_engine.errors import Problem, RefusedError
    from lynx_engine.settings import load_settings

    settings = load_settings()
    records = all_records(settings)
    found: list[dict[str, object]] = []
    problems: list[Problem] = []
    for name in what:
        matches = _matches(records, name)
        if matches.is_empty():
            text = f"no record in {settings.outputs_dir} matches it; `lynx-engine log` lists them"
            problems.append(Problem(name, text))
        else:
            found.append(matches.row(-1, named=True))
    if problems:
        raise RefusedError(problems, outcome="nothing to show")
    if json:
        say_json(found)
        return
    for number, record in enumerate(found):
        if number:
            say()
        show_fields(record)


def _matches(records: pl.DataFrame, name: str) -> pl.DataFrame:
    import polars as pl

    from lynx_engine.digest import digest_file

    path = Path(name)
    if path.is_file():
        by_content = records.filter(pl.col("clip_digest") == digest_file(path))
        return by_content if len(by_content) else records.filter(pl.col("clip") == path.name)
    if len(name) >= _SHORTEST_ID:
        return records.filter(pl.col("job_id").str.starts_with(name))
    return records.clear()
