"""`lynx-engine retry`: renders again what did not succeed, and nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from lynx_engine.cli.options import (
    DevicesOption,
    InProcessOption,
    JsonOption,
    LimitOption,
    ManifestArgument,
    OnlyOption,
    QuietOption,
    parse_only,
)
from lynx_engine.cli.render import RunOptions, render_manifest

EXAMPLE = "Example: lynx-engine retry manifests/quickstart.yaml --status failed --code encoder"


def command(
    manifest: ManifestArgument,
    status: Annotated[
        list[str] | None,
        typer.Option(help="failed, quarantined or low_identity; repeat for several."),
    ] = None,
    code: Annotated[
        list[str] | None, typer.Option(help="Error code, as `lynx-engine status` shows it.")
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(help="Manifest line, or 6 characters or more of a job id."),
    ] = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    devices: DevicesOption = "auto",
    in_process: InProcessOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Render failed, quarantined and low-identity rows again."""
    from lynx_engine.errors import ErrorCode, Problem, RefusedError, nearest
    from lynx_engine.history import RETRYABLE, RetryFilter

    known = {"--status": RETRYABLE, "--code": frozenset(ErrorCode)}
    given = {"--status": status or [], "--code": code or []}
    problems = [
        Problem(
            option,
            f"unknown value '{word}'"
            + (
                nearest(word, known[option]) or f"; it is one of {', '.join(sorted(known[option]))}"
            ),
        )
        for option, words in given.items()
        for word in words
        if word not in known[option]
    ]
    if problems:
        raise RefusedError(problems)
    retried = RetryFilter(
        statuses=frozenset(status or RETRYABLE),
        codes=frozenset(code or ()),
        rows=frozenset(row or ()),
    )
    options = RunOptions(
        skip_bad_rows=False, devices=devices, in_process=in_process, quiet=quiet, as_json=json
    )
    render_manifest(manifest, options, only=parse_only(only), limit=limit, retry=retried)
