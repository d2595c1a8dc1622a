"""`lynx-engine log`: the provenance of a campaign, one line an attempt."""

from __future__ import annotations

from typing import Annotated

import typer

from lynx_engine.cli.options import JsonOption

EXAMPLE = "Example: lynx-engine log quickstart --status failed"

_COLUMNS = (
    "finished_at",
    "status",
    "subject",
    "prompt_name",
    "seed",
    "variant",
    "attempt",
    "total_s",
    "job_id",
    "code",
)


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
    from lynx_engine.cli.records import campaign_named
    from lynx_engine.provenance.store import read_log
    from lynx_engine.settings import load_settings

    settings = load_settings()
    name = campaign_named(campaign, settings)
    records = read_log(name, settings=settings)
    for column, wanted in {"status": status, "variant": variant, "subject": subject}.items():
        if wanted is not None:
            records = records.filter(pl.col(column) == wanted)
    if json:
        say_json(records.to_dicts())
        return
    shown = records.select(
        pl.col(column).dt.strftime("%Y-%m-%d %H:%M:%S")
        if column == "finished_at"
        else pl.col(column).str.head(12)
        if column == "job_id"
        else pl.col(column).round(1)
        if column == "total_s"
        else pl.col(column)
        for column in _COLUMNS
    )
    show_table(name, _COLUMNS, shown.iter_rows())
    say(f"{len(records)} attempts. `lynx-engine show JOB_ID` prints one in full.")
