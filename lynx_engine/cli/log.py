"""`lynx-engine log`: the provenance of a campaign, one line an attempt."""

from __future__ import annotations

from typing import Annotated

import typer

from lynx_engine.cli.options import JsonOption
from lynx_engine.speed import EXACT

EXAMPLE = "Example: lynx-engine log quickstart --status failed"

_HEADERS = ("finished (UTC)", "status", "subject", "prompt", "seed", "variant", "s", "job id")


def command(
    campaign: Annotated[str, typer.Argument(help="Campaign name or manifest.")],
    status: Annotated[str | None, typer.Option(help="Only attempts that ended so.")] = None,
    variant: Annotated[str | None, typer.Option(help="Only this variant.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only this subject.")] = None,
    json: JsonOption = False,
) -> None:
    """List every attempt of a campaign, oldest first; --json gives every column."""
    import polars as pl

    from lynx_engine.cli.console import say, say_json, show_table
    from lynx_engine.cli.likeness import likeness_columns
    from lynx_engine.cli.records import campaign_named, settings_for
    from lynx_engine.errors import Problem, RefusedError, nearest
    from lynx_engine.jobs import Status
    from lynx_engine.provenance.store import read_log

    if status is not None and status not in set(Status):
        text = f"unknown value '{status}'{nearest(status, Status) or '; ' + ', '.join(Status)}"
        raise RefusedError([Problem("--status", text)], outcome="nothing to show")
    settings = settings_for(campaign)
    name = campaign_named(campaign, settings)
    records = read_log(name, settings=settings)
    for column, wanted in {"status": status, "variant": variant, "subject": subject}.items():
        if wanted is not None:
            records = records.filter(pl.col(column) == wanted)
    if json:
        say_json(records.to_dicts())
        return
    # Most campaigns take no shortcut, and a terminal is narrow.
    loras = pl.col("loras").str.split(",").list.len()
    with_loras = pl.format("{}, {} LoRAs", "speed", loras)
    speed = pl.when(pl.col("loras") == "").then(pl.col("speed")).otherwise(with_loras)
    has_speed = bool((records.get_column("speed") != EXACT).any()) or bool(
        (records.get_column("loras") != "").any()
    )
    # As with the shortcut: a column for those who have a gate.
    has_gate = bool((records.get_column("gate") != "").any())
    likeness = likeness_columns()
    is_scored = bool(records.get_column("face_share").is_not_null().any())
    shown = records.select(
        pl.col("finished_at").dt.strftime("%m-%d %H:%M:%S"),
        "status",
        "subject",
        "prompt_name",
        "seed",
        "variant",
        *([pl.col("gate_try")] if has_gate else []),
        *([speed.alias("shortcuts")] if has_speed else []),
        *(likeness.values() if is_scored else ()),
        pl.col("total_s").round(1),
        pl.col("job_id").str.head(8),
    )
    gate = ("try",) if has_gate else ()
    extra = (*(["speed"] if has_speed else []), *(likeness if is_scored else ()))
    headers = (*_HEADERS[:6], *gate, *extra, *_HEADERS[6:])
    show_table(name, headers, shown.iter_rows())
    attempts = "1 attempt" if len(records) == 1 else f"{len(records)} attempts"
    say(f"{attempts}. `lynx-engine show JOB_ID` prints one in full.")
