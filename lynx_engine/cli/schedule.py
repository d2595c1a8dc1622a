"""`lynx-engine schedule`: campaigns that render by the clock, through Prefect deployments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from lynx_engine.cli.options import DevicesOption, JsonOption, ManifestArgument

if TYPE_CHECKING:
    from typer._click.core import Context  # typer's own copy of click

    from flows.schedules.book import Schedule
    from lynx_engine.errors import DamagedError
    from lynx_engine.settings import Settings

EXAMPLE = """Examples:

lynx-engine schedule manifests/quickstart.yaml --cron "0 22 * * *" --timezone Europe/Berlin

lynx-engine schedule manifests/quickstart.yaml --every 6h

lynx-engine schedule list

lynx-engine schedule remove quickstart

lynx-engine schedule serve"""

_ADD = "add"
_TICKS_SHOWN = 3


class _ManifestFirst(TyperGroup):
    """A group whose first word may be a manifest: what is no command is one."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        known = {*self.commands, *ctx.help_option_names}
        if args and args[0] not in known:
            args = [_ADD, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ManifestFirst,
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=EXAMPLE,
    subcommand_metavar="MANIFEST | list | remove NAME | serve",
)


@app.callback()
def group() -> None:
    """Render a campaign by the clock. Schedules tick while `schedule serve` runs.

    `schedule MANIFEST --help` shows the options of a new schedule.
    """


@app.command(_ADD, hidden=True, epilog=EXAMPLE)
def add(
    manifest: ManifestArgument,
    cron: Annotated[
        str | None, typer.Option(help='Minute, hour, day, month, weekday: "0 22 * * *".')
    ] = None,
    every: Annotated[
        str | None, typer.Option(metavar="TIME", help="Interval: 45min, 6h, 1d, 2w.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="IANA name; this machine's by default.")
    ] = None,
    devices: DevicesOption = "auto",
    skip_bad_rows: Annotated[
        bool,
        typer.Option(help="Fail rows with problems; else one bad row stops the whole night."),
    ] = True,
    json: JsonOption = False,
) -> None:
    """Check a manifest and keep a schedule for it; one of the same campaign is replaced."""
    from flows.schedules.book import new_schedule, put_schedule
    from flows.schedules.ticks import check_rhythm, machine_timezone
    from lynx_engine.cli.console import say, say_json
    from lynx_engine.pool import find_devices
    from lynx_engine.settings import load_settings

    _misspelt(manifest)
    zone = timezone or machine_timezone()
    check_rhythm(cron, every, zone)
    find_devices(devices)
    settings = load_settings(manifest)
    campaign = _checked_campaign(manifest, settings)
    schedule = new_schedule(
        campaign,
        manifest,
        settings,
        timezone=zone,
        cron=" ".join((cron or "").split()),
        every=(every or "").strip(),
        devices=devices,
        skip_bad_rows=skip_bad_rows,
    )
    replaced = put_schedule(schedule, settings)
    if json:
        say_json({**_as_json(schedule), "replaced": replaced and replaced.model_dump(mode="json")})
        return
    say(f"{campaign}: {schedule.rhythm}, {zone}")
    if replaced is not None:
        say(f"It replaces {replaced.rhythm}, {replaced.timezone}.")
    for tick in _ticks(schedule):
        say(f"  {tick}")
    if skip_bad_rows:
        say("A bad row fails alone and does not stop the others (--no-skip-bad-rows: it does).")
    say("It ticks while `lynx-engine schedule serve` runs.")


@app.command("list", epilog="Example: lynx-engine schedule list --json")
def list_all(json: JsonOption = False) -> None:
    """List the schedules of this workspace, each with its next tick."""
    from flows.schedules.book import read_schedules, schedules_file
    from lynx_engine.cli.console import say, say_json, show_table
    from lynx_engine.settings import load_settings

    settings = load_settings()
    schedules = read_schedules(settings)
    if json:
        say_json([_as_json(schedule) for schedule in schedules])
    elif schedules:
        columns = ("campaign", "rhythm", "time zone", "next tick", "devices", "manifest")
        rows = [
            (s.campaign, s.rhythm, s.timezone, _ticks(s, 1)[0], s.devices, s.manifest)
            for s in schedules
        ]
        show_table("", columns, rows)
    else:
        say(f"No schedule in {schedules_file(settings)}. `lynx-engine schedule MANIFEST` adds one.")


@app.command(epilog="Example: lynx-engine schedule remove quickstart")
def remove(
    name: Annotated[str, typer.Argument(help="The campaign's name, as `schedule list` shows it.")],
    json: JsonOption = False,
) -> None:
    """Remove the schedule of a campaign; a run that has begun goes on."""
    from flows.schedules.book import remove_schedule
    from lynx_engine.cli.console import say, say_json
    from lynx_engine.settings import load_settings

    removed = remove_schedule(name, load_settings())
    if json:
        say_json({"removed": removed.model_dump(mode="json")})
    else:
        say(f"{name}: {removed.rhythm}, {removed.timezone} is removed.")


@app.command(epilog="Example: lynx-engine schedule serve")
def serve(
    at_once: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Campaigns that may render at once on the devices."),
    ] = 1,
    json: JsonOption = False,
) -> None:
    """Serve the schedules until Ctrl-C: start Prefect, render at each tick, say how it ended.

    Ticks missed meanwhile, and those that come due during a long run, become one run. With
    PREFECT_API_URL set, that server is used. Schedules added or removed count at once.
    """
    from flows.schedules.serving import Serving
    from flows.schedules.serving import serve as serve_schedules
    from lynx_engine.settings import load_settings

    try:
        serve_schedules(Serving(load_settings(), _Teller(json), at_once))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


class _Teller:
    """Says what happens while schedules are served, a line each."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._damage = ""

    def serving(self, address: str, schedules: Sequence[Schedule]) -> None:
        campaigns = [schedule.campaign for schedule in schedules]
        what = ", ".join(campaigns) or "no schedule yet; `lynx-engine schedule MANIFEST` adds one"
        self._tell(f"Serving {what}. Prefect: {address}", address=address, serving=campaigns)

    def changed(self, added: Sequence[Schedule], removed: Sequence[str]) -> None:
        for schedule in added:
            text = f"{schedule.campaign}: {schedule.rhythm}, {schedule.timezone}"
            self._tell(text, added=schedule.model_dump(mode="json"))
        for campaign in removed:
            self._tell(f"{campaign}: removed", removed=campaign)
        self._damage = ""

    def damaged(self, error: DamagedError) -> None:
        if str(error) != self._damage:
            self._damage = str(error)
            text = f"{error}\nThe schedules known before stay."
            self._tell(text, error=str(error))

    def stopping(self) -> None:
        self._tell("Stopping; rows in flight get 20 s. Ctrl-C again ends them now.", stopping=True)

    def ended(self, campaign: str, state: str, message: str) -> None:
        text = f"{campaign}: {message or state}"
        self._tell(text, campaign=campaign, state=state, message=message)

    def _tell(self, text: str, **fields: object) -> None:
        from datetime import datetime

        from lynx_engine.cli.console import say, say_json

        now = datetime.now().astimezone().replace(microsecond=0)
        if self._as_json:
            say_json({"at": now.isoformat(), **fields})
        else:
            say(f"{now:%Y-%m-%d %H:%M:%S} {text}")


def _misspelt(manifest: Path) -> None:
    """Refuse a first word that is neither a manifest nor a command, but nearly the latter."""
    from lynx_engine.errors import Problem, RefusedError, nearest

    known = nearest(str(manifest), ("list", "remove", "serve"))
    if known and not manifest.suffix and not manifest.exists():
        problem = Problem(str(manifest), f"neither a manifest nor a command{known}")
        raise RefusedError([problem], outcome="nothing was scheduled")


def _checked_campaign(manifest: Path, settings: Settings) -> str:
    """Return the manifest's campaign.

    Raises:
        RefusedError: With every problem of the manifest, its photos and its weights.
    """
    from lynx_engine.errors import RefusedError
    from lynx_engine.manifest.read import read_manifest
    from lynx_engine.planning import plan_renders
    from lynx_engine.survey import gather_facts

    read = read_manifest(manifest, lenient=True)
    try:
        plan_renders(read, gather_facts(read, settings))
    except RefusedError as error:
        raise RefusedError(error.problems, outcome="nothing was scheduled") from None
    return read.campaign


def _ticks(schedule: Schedule, count: int = _TICKS_SHOWN) -> list[str]:
    from flows.schedules.ticks import next_ticks, told

    return [told(tick) for tick in next_ticks(schedule, count)]


def _as_json(schedule: Schedule) -> dict[str, object]:
    from flows.schedules.ticks import next_ticks

    ticks = [tick.isoformat() for tick in next_ticks(schedule, _TICKS_SHOWN)]
    return {**schedule.model_dump(mode="json"), "next": ticks}
