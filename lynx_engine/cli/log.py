"""`lynx-engine log`: the provenance of one campaign or of all, listed, filtered, counted, taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import JsonOption
from lynx_engine.speed import EXACT

if TYPE_CHECKING:
    import polars as pl

    from lynx_engine.errors import DamagedError, LynxError
    from lynx_engine.settings import Settings

EXAMPLE = (
    "Example: lynx-engine log quickstart --where \"status = 'failed' and total_s > 60\"; "
    "lynx-engine log --group variant,status --csv -"
)

_LEAST_PLAIN, _MOST_PLAIN = 1e-6, 1e15
_HEADERS = ("finished (UTC)", "status", "subject", "prompt", "seed", "variant", "s", "job id")
_STDOUT = "-"


def command(
    campaign: Annotated[
        str | None, typer.Argument(help="Campaign name or manifest; all campaigns without it.")
    ] = None,
    status: Annotated[str | None, typer.Option(help="Only attempts that ended so.")] = None,
    variant: Annotated[str | None, typer.Option(help="Only this variant.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only this subject.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="Only attempts for which SQL says so.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(metavar="COLUMN[,COLUMN]", help="Count attempts, likeness and time by these."),
    ] = None,
    sql: Annotated[
        str | None, typer.Option(metavar="QUERY", help="Ask in SQL; the table is named log.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the latest so many attempts.")
    ] = None,
    columns: Annotated[bool, typer.Option("--columns", help="List the columns.")] = False,
    csv: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write CSV, safe for spreadsheets; - is stdout."),
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write parquet with the exact values.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List every attempt, oldest first; filter, count or ask in SQL; --json gives every column."""
    from lynx_engine.cli.console import complain
    from lynx_engine.cli.records import settings_for
    from lynx_engine.provenance.query import asked, grouped, matching

    equal = {"status": status, "variant": variant, "subject": subject}
    filters = {**equal, "where": where, "limit": limit}
    _check_together(
        filters=[f"--{name}" for name, value in filters.items() if value is not None],
        answers={"--columns": columns, "--sql": sql is not None, "--group": group is not None},
        outputs={"--csv": csv is not None, "--parquet": parquet is not None, "--json": json},
    )
    _check_status(status)
    _check_places(csv, parquet)
    if columns:
        _list_columns(as_json=json)
        return
    records, damage = _read(campaign, settings_for(campaign))
    for name, wanted in equal.items():
        if wanted is not None:
            records = records.filter(records[name] == wanted)
    if where is not None:
        records = matching(records, where)
    if limit is not None:
        records = records.tail(limit)
    if sql is not None:
        records = asked(records, sql)
    if group is not None:
        records = grouped(records, [name.strip() for name in group.split(",")])
    if csv is not None or parquet is not None or json:
        _take(records, csv=csv, parquet=parquet)
    elif sql is not None or group is not None:
        _show(records)
    else:
        _list(records, of_one=campaign is not None)
    if damage is not None:
        complain(damage)
        raise typer.Exit(damage.exit_code)


def _check_together(
    *, filters: list[str], answers: dict[str, bool], outputs: dict[str, bool]
) -> None:
    """Refuse options that say different things at once."""
    asked = [option for option, is_given in answers.items() if is_given]
    given = [option for option, is_given in outputs.items() if is_given]
    if len(asked) > 1:
        raise _refused(" ".join(asked), "are different answers; give one of them")
    if len(given) > 1:
        raise _refused(" ".join(given), "are different outputs; give one of them")
    if "--sql" in asked and filters:
        raise _refused(
            f"--sql {' '.join(filters)}", "write the filter into the query: WHERE, LIMIT"
        )
    if "--columns" in asked and (filters or set(given) - {"--json"}):
        rest = [*filters, *(option for option in given if option != "--json")]
        raise _refused(f"--columns {' '.join(rest)}", "it lists the columns' meaning, not attempts")


def _check_status(status: str | None) -> None:
    from lynx_engine.errors import nearest
    from lynx_engine.jobs import Status

    if status is not None and status not in set(Status):
        text = f"unknown value '{status}'{nearest(status, Status) or '; ' + ', '.join(Status)}"
        raise _refused("--status", text)


def _check_places(csv: str | None, parquet: Path | None) -> None:
    from lynx_engine.provenance.export import check_place

    if csv is not None and csv != _STDOUT:
        check_place(Path(csv), option="--csv")
    if parquet is not None:
        check_place(parquet, option="--parquet")


def _refused(where: str, text: str) -> LynxError:
    from lynx_engine.errors import Problem, RefusedError

    return RefusedError([Problem(where, text)], outcome="nothing to show")


def _read(campaign: str | None, settings: Settings) -> tuple[pl.DataFrame, DamagedError | None]:
    """Return the records of one campaign or of all, and what is wrong with the logs of others."""
    import polars as pl

    from lynx_engine.cli.records import campaign_named, campaigns_of, read_logs
    from lynx_engine.provenance.schema import record_columns
    from lynx_engine.provenance.store import read_log

    if campaign is not None:
        return read_log(campaign_named(campaign, settings), settings=settings), None
    logs, damage = read_logs(campaigns_of(settings), settings)
    together = pl.concat([pl.DataFrame(schema=record_columns()), *logs.values()])
    return together.sort("finished_at", maintain_order=True), damage


def _list_columns(*, as_json: bool) -> None:
    from dataclasses import asdict

    from lynx_engine.cli.console import say_json, show_table
    from lynx_engine.provenance.columns import columns

    if as_json:
        say_json([asdict(column) for column in columns()])
        return
    rows = ((column.name, column.type, column.unit, column.meaning) for column in columns())
    show_table("", ("column", "type", "unit", "meaning"), rows)


def _take(records: pl.DataFrame, *, csv: str | None, parquet: Path | None) -> None:
    """Write the answer to a file, or as JSON or CSV to stdout."""
    from lynx_engine.cli.console import note, say_data, say_json
    from lynx_engine.provenance.export import as_csv, as_parquet, as_rows, write_export

    if csv == _STDOUT:
        say_data(as_csv(records).decode())
    elif csv is not None:
        write_export(Path(csv), as_csv(records))
    elif parquet is not None:
        write_export(parquet, as_parquet(records))
    else:
        say_json(as_rows(records))
        return
    if csv != _STDOUT:
        note(f"Wrote {csv or parquet}, {_counted(len(records), 'row')}.")


def _show(records: pl.DataFrame) -> None:
    """Print an answer whose columns are the person's own."""
    import polars as pl
    import polars.selectors as cs

    from lynx_engine.cli.console import say, show_table

    if records.columns:
        rounded = records.with_columns(cs.float().map_elements(_plainly, pl.String))
        rounded = rounded.with_columns(pl.col(pl.Datetime).dt.to_string("%Y-%m-%d %H:%M:%S"))
        cells = (("" if c is None else c for c in row) for row in rounded.iter_rows())
        show_table("", records.columns, (tuple(row) for row in cells))
    say(f"{_counted(len(records), 'row')}.")


def _plainly(number: float) -> str:
    """Write five significant digits as people do, without an exponent where there is room."""
    text = f"{number:.5g}"
    if "e" not in text or not _LEAST_PLAIN <= abs(number) < _MOST_PLAIN:
        return text
    return f"{float(text):.10f}".rstrip("0").rstrip(".")


def _list(records: pl.DataFrame, *, of_one: bool) -> None:
    """Print attempts, one a line, with the columns that a terminal has room for."""
    import polars as pl

    from lynx_engine.cli.console import say, show_table
    from lynx_engine.cli.likeness import likeness_columns

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
        *([] if of_one else [pl.col("campaign")]),
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
    first = () if of_one else ("campaign",)
    name = records["campaign"][0] if of_one and len(records) else ""
    show_table(name, (*first, *headers), shown.iter_rows())
    say(f"{_counted(len(records), 'attempt')}. `lynx-engine show JOB_ID` prints one in full.")


def _counted(number: int, thing: str) -> str:
    return f"1 {thing}" if number == 1 else f"{number} {thing}s"
