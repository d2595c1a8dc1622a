"""`lynx-engine show`: everything that is recorded of one clip or row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import JsonOption
from lynx_engine.digest import digest_file

if TYPE_CHECKING:
    import polars as pl

EXAMPLE = "Example: lynx-engine show outputs/quickstart/clips/*-s1-tiny-*.mp4"

_SHORTEST_ID = 6


def command(
    what: Annotated[
        list[str],
        typer.Argument(help="A clip, also a renamed copy, or 6 characters or more of a job id."),
    ],
    json: JsonOption = False,
) -> None:
    """Find the record of a clip by its content, or of a row by its id, and print it."""
    import polars as pl

    from lynx_engine.cli.console import complain, note, say, say_json, show_fields
    from lynx_engine.cli.records import campaigns_of, read_logs, settings_for
    from lynx_engine.errors import Problem, RefusedError
    from lynx_engine.provenance.schema import record_columns

    settings = settings_for(what[0])
    logs, damage = read_logs(campaigns_of(settings), settings)
    if damage is not None:
        complain(damage)
    records = pl.concat([pl.DataFrame(schema=record_columns()), *logs.values()])
    found: list[dict[str, object]] = []
    problems: list[Problem] = []
    for name in what:
        matches = _matches(records, name)
        if matches.is_empty():
            text = f"no record in {settings.outputs_dir} matches it; `lynx-engine log` lists them"
            problems.append(Problem(name, text))
        else:
            found.append(matches.row(-1, named=True))
            if Path(name).is_file() and found[-1]["clip_digest"] != digest_file(Path(name)):
                note(f"{name}: found by its name; its content is not what was recorded.")
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

    path = Path(name)
    if path.is_file():
        by_content = records.filter(pl.col("clip_digest") == digest_file(path))
        return by_content if len(by_content) else records.filter(pl.col("clip") == path.name)
    if len(name) >= _SHORTEST_ID:
        return records.filter(pl.col("job_id").str.starts_with(name))
    return records.clear()
