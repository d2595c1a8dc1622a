"""Campaigns that render now, in words: for `status`, `status --watch` and `cancel`."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lynx_engine.words import duration_in_words

if TYPE_CHECKING:
    from lynx_engine.live import Holder, Live, RowInFlight
    from lynx_engine.settings import Settings

_REFRESH_S = 2.0


@dataclass(frozen=True, slots=True)
class Running:
    """A campaign that a process renders.

    Attributes:
        campaign: Its name.
        holder: The process.
        live: What it told last; None while it starts.
    """

    campaign: str
    holder: Holder
    live: Live | None


def find_running(names: Sequence[str], settings: Settings) -> list[Running]:
    """Return those of the campaigns that a process renders now."""
    from lynx_engine.live import is_running, read_live

    found: list[Running] = []
    for name in names:
        folder = settings.campaign_dir(name)
        holder = is_running(folder)
        if holder is not None:
            live = read_live(folder)
            # A killed run leaves its last words to the next one.
            mine = live is not None and (live.pid, live.host) == (holder.pid, holder.host)
            found.append(Running(name, holder, live if mine else None))
    return found


def describe(running: Running, now: datetime) -> str:
    """Return one line on a running campaign; a start before today is told with its day."""
    live = running.live
    if live is None:
        return f"{running.campaign}: starting ({running.holder})"
    parts = [f"{live.ended}/{live.rows} rows"]
    parts += [f"{live.failed} failed"] if live.failed else []
    parts += [f"{live.withheld} withheld"] if live.withheld else []
    parts += [f"{live.low_identity} low identity"] if live.low_identity else []
    parts += [f"ETA {duration_in_words(live.eta_s)}"] if live.eta_s is not None else []
    doing = "stopping, rendering" if live.stopping else "rendering"
    return f"{running.campaign}: {doing} since {_moment(live.started_at, now)}: {', '.join(parts)}"


def describe_rows(running: Running, now: datetime) -> list[str]:
    """Return a line for each row in flight, with its stage and the time it took up to `now`."""
    return [f"  {_row(row, now)}" for row in (running.live.in_flight if running.live else ())]


def describe_all(running: Sequence[Running]) -> str:
    """Return what is known of running campaigns and their rows at this moment."""
    now = datetime.now(UTC)
    return "\n".join(
        line for one in running for line in (describe(one, now), *describe_rows(one, now))
    )


def as_json(running: Sequence[Running]) -> dict[str, object]:
    """Return what programs are told of running campaigns, by name."""
    return {
        one.campaign: {
            "pid": one.holder.pid,
            "host": one.holder.host,
            "live": None if one.live is None else _plain(one.live),
        }
        for one in running
    }


def watch(names: Sequence[str] | None, settings: Settings, *, quiet: bool) -> None:
    """Show running campaigns until none runs any more.

    Args:
        names: The campaigns; None means every one, also one that begins meanwhile.
        settings: Where they are.
        quiet: Wait, and show nothing.
    """
    from lynx_engine.cli.records import campaigns_of

    with _shown(quiet=quiet) as show:
        while running := find_running(names or campaigns_of(settings), settings):
            show(running)
            time.sleep(_REFRESH_S)


@contextmanager
def _shown(*, quiet: bool) -> Generator[Callable[[Sequence[Running]], None]]:
    from lynx_engine.cli.console import screen, stdout_is_terminal

    if quiet:
        yield lambda _: None
    elif stdout_is_terminal():
        with screen() as draw:
            yield lambda running: draw(describe_all(running))
    else:
        yield _Lines().show


class _Lines:
    """One line whenever a campaign began, a row ended, or it was told to stop."""

    def __init__(self) -> None:
        self._before: Mapping[str, object] = {}

    def show(self, running: Sequence[Running]) -> None:
        from lynx_engine.cli.console import say

        now = {one.campaign: _news(one) for one in running}
        for one in running:
            if self._before.get(one.campaign) != now[one.campaign]:
                say(describe(one, datetime.now(UTC)))
        self._before = now


def _news(running: Running) -> object:
    live = running.live
    return (
        "starting" if live is None else (live.rendered, live.failed, live.withheld, live.stopping)
    )


def _row(row: RowInFlight, now: datetime) -> str:
    step = f"{row.stage} {row.done}/{row.total}" if row.total > 1 else row.stage
    where = f" on {row.device}" if row.device else ""
    took_s = max((now - row.since).total_seconds(), 0.0)
    return f"{row.clip}{where}: {step}, {duration_in_words(took_s)}"


def _moment(when: datetime, now: datetime) -> str:
    """Return a local time, with its day unless it is today."""
    here = when.astimezone()
    form = "%H:%M" if here.date() == now.astimezone().date() else "%Y-%m-%d %H:%M"
    return here.strftime(form)


def _plain(live: Live) -> dict[str, object]:
    told: dict[str, object] = asdict(live)
    told["started_at"] = live.started_at.isoformat()
    told["in_flight"] = [{**asdict(row), "since": row.since.isoformat()} for row in live.in_flight]
    return told
