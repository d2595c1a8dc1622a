"""`lynx-engine show`: everything that is recorded of one clip or row, and what makes it again."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from lynx_engine.cli.options import JsonOption, WorkspaceOption
from lynx_engine.digest import digest_file

if TYPE_CHECKING:
    import polars as pl

    from lynx_engine.provenance.trace import FileFacts, Record
    from lynx_engine.settings import Settings

EXAMPLE = "Example: lynx-engine show ~/Downloads/clip.mp4 --manifest -o again.yaml"

_SHORTEST_ID = 6


def command(
    what: Annotated[
        list[str],
        typer.Argument(
            help="A clip, also a renamed, remuxed or altered copy anywhere, or 6 characters or "
            "more of a job id."
        ),
    ],
    manifest: Annotated[
        bool,
        typer.Option("--manifest", help="Write the one-row manifest that makes the clip again."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where; stdout by default."),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Find the record of a clip by its content, or of a row by its id, and print it."""
    import polars as pl

    from lynx_engine.cli.console import complain, note, say, say_json, show_fields
    from lynx_engine.cli.records import campaigns_of, read_logs, settings_for, settings_of
    from lynx_engine.errors import Problem, RefusedError
    from lynx_engine.provenance.schema import record_columns

    _check_options(what, manifest=manifest, output=output)
    settings = settings_for(what[0]) if workspace is None else settings_of(workspace)
    logs, damage = read_logs(campaigns_of(settings), settings)
    if damage is not None:
        complain(damage)
    records = pl.concat([pl.DataFrame(schema=record_columns()), *logs.values()])
    found: list[Record] = []
    problems: list[Problem] = []
    for name in what:
        seen = _find(records, name)
        if seen.record is None:
            problems.append(Problem(name, _unfound(name, settings, seen.told)))
            continue
        found.append(seen.record)
        if seen.told:
            note(f"{name}: {seen.told}")
    if problems:
        raise RefusedError(problems, outcome="nothing to show")
    if manifest:
        _write_manifest(found[0], settings, output, as_json=json)
        return
    if json:
        say_json(found)
        return
    for number, record in enumerate(found):
        if number:
            say()
        show_fields(record)


def _unfound(name: str, settings: Settings, told: str) -> str:
    """Return why there is nothing to show of a file or an id."""
    is_path = "/" in name or os.sep in name or Path(name).suffix != ""
    if is_path and not os.path.lexists(name):
        return "there is no such file"
    if is_path and not Path(name).is_file():
        return "is no file; name a clip"
    if not is_path and len(name) < _SHORTEST_ID and not Path(name).exists():
        return f"too short for a job id; {_SHORTEST_ID} characters of it are the least"
    return f"no record in {settings.outputs_dir} matches it{told}"


class _Seen(NamedTuple):
    """A record, and what to say of how it was found; why there is none, if there is none."""

    record: Record | None
    told: str


def _find(records: pl.DataFrame, name: str) -> _Seen:
    import polars as pl

    from lynx_engine.provenance.trace import latest_published, trace

    path = Path(name)
    if path.is_file():
        facts: list[FileFacts] = []

        def look() -> FileFacts:
            facts.append(_look_at(path, digest))
            return facts[0]

        digest = digest_file(path)
        found = trace(records, digest, look)
        if found is not None:
            return _Seen(found.record, found.told)
        if facts[0].job_id:
            text = f"; its tags name job {facts[0].job_id}, which another workspace may know"
            return _Seen(None, f"{text} (--workspace DIR)")
    elif len(name) >= _SHORTEST_ID:
        matches = records.filter(pl.col("job_id").str.starts_with(name))
        if (record := latest_published(matches)) is not None:
            return _Seen(record, "")
    return _Seen(None, "; `lynx-engine log` lists them")


def _look_at(path: Path, digest: str) -> FileFacts:
    """Return what a file says of itself; one that is no clip says nothing."""
    from lynx_engine.errors import RowError
    from lynx_engine.media.video import decode_clip
    from lynx_engine.provenance.trace import FileFacts

    try:
        frames_digest = decode_clip(path).frames_digest
    except RowError:
        frames_digest = ""
    return FileFacts(path.name, digest, _tagged_job(path), frames_digest)


def _tagged_job(path: Path) -> str:
    from lynx_engine.errors import RowError
    from lynx_engine.media.tags import read_tags
    from lynx_engine.provenance.labels import job_id_in

    try:
        return job_id_in(read_tags(path))
    except RowError:
        return ""


def _check_options(what: list[str], *, manifest: bool, output: Path | None) -> None:
    from lynx_engine.errors import Problem, RefusedError

    problems: list[Problem] = []
    if manifest and len(what) > 1:
        problems.append(Problem("--manifest", "writes one row; name one clip"))
    if output is not None and not manifest:
        problems.append(Problem("--output", "is for --manifest; write both"))
    if output is not None and os.path.lexists(output):
        problems.append(Problem(str(output), "is there already; name another file"))
    if problems:
        raise RefusedError(problems, outcome="nothing to show")


def _write_manifest(
    record: Record, settings: Settings, output: Path | None, *, as_json: bool
) -> None:
    from lynx_engine.cli.console import note, say_exactly, say_json
    from lynx_engine.errors import RefusedError
    from lynx_engine.remaking import remake

    again = remake(record, settings)
    if again.refusals:
        raise RefusedError(again.refusals, outcome="no manifest was written")
    for warning in again.warnings:
        note(str(warning))
    text = again.text(None if output is None else output.parent)
    if output is not None:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    if as_json:
        warnings = [str(warning) for warning in again.warnings]
        path = None if output is None else str(output)
        job_id = None if again.job is None else again.job.job_id
        say_json({"manifest": text, "path": path, "job_id": job_id, "warnings": warnings})
    elif output is None:
        say_exactly(text)
    else:
        note(f"Wrote {output}. Next: lynx-engine render {shlex.quote(str(output))}")
