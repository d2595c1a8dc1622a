"""When a schedule ticks: what a person writes is checked, Prefect's own classes do the counting.

Prefect is imported where it is used. How it treats days on which clocks change is measured in
tests/unit/test_schedules.py: a cron time keeps its place on the clock; the time that a spring night
skips is taken an hour early by the clock (02:30 becomes 01:30), the one that an autumn night has
twice is taken once, the first time. Intervals of whole days keep the clock, shorter ones the hours.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, available_timezones

from lynx_engine.errors import Problem, RefusedError, nearest

if TYPE_CHECKING:
    from flows.schedules.book import Schedule

LOCALTIME = Path("/etc/localtime")

_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_EVERY = re.compile(r"([0-9]{1,4})(s|min|h|d|w)")
_EVERY_ADVICE = "write a whole number and min, h, d or w, as in 45min, 6h or 1d"
_CRON_ADVICE = 'write minute, hour, day, month, weekday, as in "0 22 * * *" for 22:00 every day'
_ZONE_ADVICE = "give an IANA name, as in Europe/Berlin or America/New_York"
_CRON_FIELDS = 5
_SHORTEST = timedelta(minutes=1)


def interval_of(every: str) -> timedelta:
    """Return an interval as a duration: `45min`, `6h`, `1d`, `2w`.

    Raises:
        ValueError: If it is none; the message says how to write one.
    """
    match = _EVERY.fullmatch(every.strip())
    if match is None or int(match[1]) == 0:
        raise ValueError(f"'{every}' is not an interval; {_EVERY_ADVICE}")
    return timedelta(seconds=int(match[1]) * _UNITS_S[match[2]])


def check_rhythm(cron: str | None, every: str | None, timezone: str) -> None:
    """Accept a rhythm and a time zone, or tell everything that is wrong with them.

    Args:
        cron: The option --cron, if it was given.
        every: The option --every, if it was given.
        timezone: The option --timezone, or the machine's zone.

    Raises:
        RefusedError: With each problem and an example.
    """
    problems: list[Problem] = []
    if (cron is None) == (every is None):
        both = "one of them" if cron is None else "only one of them"
        text = f'give {both}, as in --cron "0 22 * * *" or --every 6h'
        problems.append(Problem("--cron, --every", text))
    if cron is not None and (fault := _cron_fault(cron)):
        problems.append(Problem("--cron", fault))
    if every is not None:
        try:
            fault = "" if interval_of(every) >= _SHORTEST else f"'{every}' is under a minute"
        except ValueError as error:
            fault = str(error)
        problems += [Problem("--every", fault)] if fault else []
    if timezone not in _zones():
        advice = nearest(timezone, _zones()) or f"; {_ZONE_ADVICE}"
        problems.append(Problem("--timezone", f"'{timezone}' is no time zone{advice}"))
    if problems:
        raise RefusedError(problems, outcome="nothing was scheduled")


def machine_timezone() -> str:
    """Return the IANA name of the machine's time zone.

    Raises:
        RefusedError: If the machine does not say.
    """
    told = os.environ.get("TZ", "").removeprefix(":")
    if told:
        return told
    if not LOCALTIME.exists():
        return "UTC"  # what the system's own library takes then
    name = str(LOCALTIME.resolve()).partition("/zoneinfo/")[2]
    if name not in _zones():
        text = f"{LOCALTIME} does not tell the name of this machine's time zone; {_ZONE_ADVICE}"
        raise RefusedError([Problem("--timezone", text)], outcome="nothing was scheduled")
    return name


def prefect_schedule(schedule: Schedule) -> dict[str, Any]:
    """Return the arguments of the Prefect schedule that ticks so."""
    if schedule.cron:
        return {"cron": schedule.cron, "timezone": schedule.timezone}
    return {
        "interval": interval_of(schedule.every),
        "anchor_date": schedule.since,
        "timezone": schedule.timezone,
    }


def next_ticks(
    schedule: Schedule, count: int = 3, *, after: datetime | None = None
) -> list[datetime]:
    """Return the coming ticks in the schedule's own time zone, as Prefect will count them.

    Args:
        schedule: The schedule.
        count: How many.
        after: Later than this; the present by default.
    """
    import asyncio

    from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule

    kind = CronSchedule if schedule.cron else IntervalSchedule
    start = after or datetime.now(UTC)
    # One more than asked: the first may be at `start` itself, or, in a spring night, before it.
    dates = asyncio.run(kind(**prefect_schedule(schedule)).get_dates(n=count + 2, start=start))
    zone = ZoneInfo(schedule.timezone)
    # Made plain: Prefect's dates are of a class of their own.
    plain = [datetime.fromtimestamp(date.timestamp(), zone) for date in dates]
    return [date for date in plain if date > start][:count]


def told(tick: datetime) -> str:
    """Return a tick as a person reads it, with the zone's abbreviation on that day."""
    return f"{tick:%a %Y-%m-%d %H:%M %Z}"


def _cron_fault(cron: str) -> str:
    import asyncio

    from prefect.server.schemas.schedules import CronSchedule

    if (fields := len(cron.split())) != _CRON_FIELDS:
        return f"'{cron}' has {fields} fields, a schedule has 5; {_CRON_ADVICE}"
    try:
        schedule = CronSchedule(cron=cron, timezone="UTC")
    except ValueError:
        return f"'{cron}' is not a cron expression; {_CRON_ADVICE}"
    try:
        asyncio.run(schedule.get_dates(n=1))
    except ValueError:
        return f"'{cron}' names a day that never comes; {_CRON_ADVICE}"
    return ""


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())
