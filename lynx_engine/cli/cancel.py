"""`lynx-engine cancel`: stops a campaign from another terminal; it can be resumed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import CampaignArgument, JsonOption, QuietOption

if TYPE_CHECKING:
    from lynx_engine.live import Holder, Live
    from lynx_engine.settings import Settings

EXAMPLE = "Example: lynx-engine cancel quickstart --now"

_POLL_S = 0.2
_WAIT_S = 60.0
# Two signals of one number that arrive together are one; and a run that is still starting leaves
# in order on the first, which a second would disturb.
_AGAIN_AFTER_S = 10.0


def command(
    campaign: CampaignArgument,
    now: Annotated[
        bool, typer.Option("--now", help="End the rows in flight at once; they render again.")
    ] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Stop a campaign that renders in another terminal of this machine, and wait for its end.

    Rows in flight get 20 s to finish. The same `render` command goes on where it stopped.
    """
    from lynx_engine.cli.console import note, say, say_json
    from lynx_engine.cli.records import campaign_named, settings_for
    from lynx_engine.live import is_running

    settings = settings_for(campaign)
    name = campaign_named(campaign, settings, outcome="nothing was stopped")
    folder = settings.campaign_dir(name)
    holder = is_running(folder)
    left = None
    if holder is not None:
        _check_holder(name, holder, folder)
        if not (quiet or json):
            wait = "ending the rows in flight" if now else "rows in flight get 20 s"
            note(f"{name}: stopping {holder}; {wait}")
        live = _end(name, holder, folder, now=now)
        left = None if live is None else _rows_left(name, live, settings)
    if json:
        stopped = None if holder is None else {"pid": holder.pid, "host": holder.host}
        say_json({"campaign": name, "stopped": stopped, "rows_left": left})
    elif holder is None:
        say(f"{name}: nothing is running.")
    elif not quiet:
        rows = "" if left is None else f"; {left} row{'' if left == 1 else 's'} of its run left"
        say(f"{name}: stopped{rows}. The same `lynx-engine render` goes on.")


def _check_holder(name: str, holder: Holder, folder: Path) -> None:
    """Accept a holder that a signal from here reaches and that is no innocent namesake.

    Raises:
        RefusedError: If it runs elsewhere, or another process has its number now.
    """
    import psutil

    from lynx_engine.errors import Problem, RefusedError
    from lynx_engine.lock import LOCK_FILE

    if not holder.is_here:
        text = f"it is rendered by {holder}; run `lynx-engine cancel {name}` there"
        raise RefusedError([Problem(name, text)], outcome="nothing was stopped")
    try:
        opened = {Path(file.path) for file in psutil.Process(holder.pid).open_files()}
    except psutil.NoSuchProcess:
        return  # it ended by itself meanwhile
    except psutil.AccessDenied:
        text = f"it is rendered by {holder}, which belongs to another user; ask them to stop it"
        raise RefusedError([Problem(name, text)], outcome="nothing was stopped") from None
    if (folder / LOCK_FILE).resolve() not in opened:
        text = f"its lock names {holder}, which does not hold it; look again in a second"
        raise RefusedError([Problem(name, text)], outcome="nothing was stopped")


def _end(name: str, holder: Holder, folder: Path, *, now: bool) -> Live | None:
    """Signal the holder and wait until it holds no more; return what it told last.

    Raises:
        LockedError: If it still holds after a minute.
    """
    from lynx_engine.errors import LockedError
    from lynx_engine.live import is_running, read_live

    asked_s = time.monotonic()
    _signal(holder)
    again = now
    last: Live | None = None
    while is_running(folder) == holder:
        live = read_live(folder)
        if live is not None and (live.pid, live.host) == (holder.pid, holder.host):
            last = live
        waited_s = time.monotonic() - asked_s
        heard = last is not None and last.stopping
        if again and (heard or waited_s > _AGAIN_AFTER_S):
            _signal(holder)
            again = False
        if waited_s > _WAIT_S:
            raise LockedError(
                f"{name}: {holder} was told to stop and has not ended after {_WAIT_S:.0f} s. "
                + ("Its campaign.log says more." if now else "`--now` ends the rows in flight.")
            )
        time.sleep(_POLL_S)
    return last


def _signal(holder: Holder) -> None:
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except ProcessLookupError:
        return  # it ended by itself meanwhile


def _rows_left(name: str, live: Live, settings: Settings) -> int:
    """Return how many rows of a run have no end; the log knows those that ended last."""
    import polars as pl

    from lynx_engine.errors import DamagedError
    from lynx_engine.jobs import Status
    from lynx_engine.provenance.store import read_log

    try:
        log = read_log(name, settings=settings)
    except DamagedError:
        return live.rows - live.ended
    ended = log.filter(
        pl.col("finished_at") >= live.started_at, pl.col("status") != Status.INTERRUPTED.value
    )
    return max(live.rows - ended["job_id"].n_unique(), 0)
