"""`lynx-engine status`: where each campaign stands, from its log."""

from __future__ import annotations

from typing import Annotated

import typer

from lynx_engine.cli.options import JsonOption

EXAMPLE = "Example: lynx-engine status quickstart"


def command(
    campaign: Annotated[
        str | None, typer.Argument(help="Campaign name or manifest; every campaign by default.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Count rendered, failed and interrupted rows, and name the failures."""
    import polars as pl

    from lynx_engine.cli.console import say, say_json, show_table
    from lynx_engine.cli.records import campaign_named, campaigns_of, read_logs, settings_for
    from lynx_engine.jobs import Status

    settings = settings_for(campaign)
    names = [campaign_named(campaign, settings)] if campaign else campaigns_of(settings)
    counts: dict[str, dict[str, int]] = {}
    failures: list[dict[str, object]] = []
    logs, damage = read_logs(names, settings)
    for name, log in logs.items():
        latest = log.unique("job_id", keep="last", maintain_order=True)
        by_status = dict(latest.group_by("status").len().iter_rows())
        counts[name] = {status.value: by_status.get(status.value, 0) for status in Status}
        failed = latest.filter(pl.col("status") == Status.FAILED.value)
        failures += failed.select("campaign", "where", "job_id", "code", "message").to_dicts()
    if json:
        told = [] if damage is None else [str(problem) for problem in damage.problems]
        say_json({"campaigns": counts, "failures": failures, "damaged": told})
        if damage is not None:
            raise typer.Exit(damage.exit_code)
        return
    if not names:
        say(f"No campaign in {settings.outputs_dir} yet. `lynx-engine render MANIFEST` makes one.")
        return
    rows = ((name, *count.values()) for name, count in counts.items())
    show_table("", ("campaign", *(status.value for status in Status)), rows)
    for failure in failures:
        say(f"{failure['where']}: {failure['code']}: {failure['message']}")
    if damage is not None:
        raise damage
