"""`lynx-engine retry`: renders again what did not succeed, and nothing else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import (
    ClusterOption,
    DevicesOption,
    InProcessOption,
    JsonOption,
    LimitOption,
    LowVramOption,
    ManifestArgument,
    ModelsOption,
    OnlyOption,
    QuietOption,
    parse_only,
)
from lynx_engine.cli.render import RunOptions, render_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from lynx_engine.history import RetryFilter

EXAMPLE = "Example: lynx-engine retry manifests/quickstart.yaml --code encoder --since 2h"

_AGO = re.compile(r"([0-9]{1,6}) ?(min|h|d)")
_UNITS = {"min": "minutes", "h": "hours", "d": "days"}


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
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Only rows that ended since: 45min, 2h, 3d, 2026-11-22, or 2026-11-22T18:30.",
        ),
    ] = None,
    damaged: Annotated[
        bool,
        typer.Option(
            "--damaged",
            help="Read every published clip, and render those that are missing or not what was "
            "recorded; only these, unless --status is given, too.",
        ),
    ] = False,
    only: OnlyOption = None,
    limit: LimitOption = None,
    devices: DevicesOption = "auto",
    cluster: ClusterOption = "",
    in_process: InProcessOption = False,
    lowvram: LowVramOption = False,
    models: ModelsOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Render failed, quarantined, low-identity or damaged rows again; withheld ones never."""
    retried = _filter_of(status or [], code or [], row or [], since)
    if damaged:
        retried = _with_damaged(retried, manifest, is_alone=not status)
    options = RunOptions(
        skip_bad_rows=False,
        devices=devices,
        cluster=cluster,
        in_process=in_process,
        low_vram=lowvram,
        quiet=quiet,
        as_json=json,
        models=models,
    )
    render_manifest(manifest, options, only=parse_only(only), limit=limit, retry=retried)


def _filter_of(
    statuses: list[str], codes: list[str], rows: list[str], since: str | None
) -> RetryFilter:
    """Return which rows the options choose; every wrong word is told at once."""
    from lynx_engine.errors import ErrorCode, Problem, RefusedError, nearest
    from lynx_engine.history import RETRYABLE, RetryFilter
    from lynx_engine.jobs import Status

    problems: list[Problem] = []
    known = {"--status": RETRYABLE, "--code": frozenset(ErrorCode)}
    for option, words in (("--status", statuses), ("--code", codes)):
        for word in words:
            if word not in known[option]:
                listed = f"; it is one of {', '.join(sorted(known[option]))}"
                hint = nearest(word, known[option]) or listed
                if word == Status.WITHHELD:
                    hint = "; a withheld row runs again only when its request changes, by `render`"
                problems.append(Problem(option, f"unknown value '{word}'{hint}"))
    moment = None if since is None else read_moment(since, datetime.now(UTC))
    if isinstance(moment, str):
        problems.append(Problem("--since", moment))
        moment = None
    if problems:
        raise RefusedError(problems)
    return RetryFilter(
        statuses=frozenset(statuses or RETRYABLE),
        codes=frozenset(codes),
        rows=frozenset(rows),
        since=moment,
    )


def _with_damaged(retried: RetryFilter, manifest: Path, *, is_alone: bool) -> RetryFilter:
    """Return the filter with the clips of the manifest's campaign that are damaged."""
    from dataclasses import replace

    from lynx_engine.manifest.read import read_manifest
    from lynx_engine.settings import load_settings
    from lynx_engine.verification import damaged_clips

    campaign = read_manifest(manifest, lenient=True).campaign
    clips = damaged_clips(campaign, load_settings(manifest))
    statuses = frozenset[str]() if is_alone else retried.statuses
    return replace(retried, statuses=statuses, damaged=clips)


def read_moment(text: str, now: datetime) -> datetime | str:
    """Return the moment that `--since` names, or what is wrong with it.

    Args:
        text: A time ago, or an ISO date or date-time; of this machine's time zone if it has none.
        now: The present, with its time zone.
    """
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago is not None:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        return (
            f"'{text}' is no time; write how long ago, as in 45min, 2h or 3d, or a date, as in "
            "2026-11-22 or 2026-11-22T18:30"
        )
    return f"'{text}' lies ahead; no row ended since" if moment > now else moment
