"""The schedules of a workspace: one file that a person can read, whole or refused.

Prefect's database may be deleted at any time, so what was asked for stands here. The file carries
a digest of its own content, because JSON does not notice a changed letter. It knows no Prefect.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lynx_engine.digest import digest_mapping
from lynx_engine.errors import DamagedError, Problem, RefusedError, nearest
from lynx_engine.provenance.store import write_durably
from lynx_engine.settings import Settings

FILE = "schedules.json"
VERSION = 1

_ABOUT = "Made by `lynx-engine schedule`; change it with that command, not by hand."
_ADVICE = (
    "Put back the file as it was (version control, a backup), or delete it and give each "
    "schedule again with `lynx-engine schedule MANIFEST`."
)


class Schedule(BaseModel):
    """When one campaign renders.

    Attributes:
        campaign: Name of the campaign, and of the schedule.
        manifest: Path of its manifest, from the workspace's folder if it lies in there.
        cron: Five fields such as `0 22 * * *`; "" where `every` is given.
        every: An interval such as `6h`; "" where `cron` is given.
        timezone: IANA name of the zone whose clock the ticks follow.
        devices: As `lynx-engine render --devices`.
        skip_bad_rows: As `lynx-engine render --skip-bad-rows`.
        since: When it was made; intervals are counted from here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    campaign: str
    manifest: str
    cron: str = ""
    every: str = ""
    timezone: str
    devices: str = "auto"
    skip_bad_rows: bool = True
    since: datetime

    @property
    def rhythm(self) -> str:
        """The cron expression or the interval, as it was given."""
        return self.cron or f"every {self.every}"


class _Content(BaseModel):
    """What the file holds; its schedules are looked at after its version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    version: int
    schedules: list[dict[str, Any]]
    sha256: str = ""


def schedules_file(settings: Settings) -> Path:
    """Return where the schedules of a workspace stand."""
    return settings.workspace / FILE


def manifest_of(schedule: Schedule, settings: Settings) -> Path:
    """Return the absolute path of a schedule's manifest."""
    return (settings.workspace / schedule.manifest).resolve()


def new_schedule(
    campaign: str, manifest: Path, settings: Settings, *, timezone: str, **values: Any
) -> Schedule:
    """Return a schedule that counts from the present minute.

    Args:
        campaign: The manifest's campaign.
        manifest: The manifest.
        settings: Its workspace.
        timezone: IANA name of the zone.
        values: The other attributes of `Schedule`.
    """
    path, workspace = manifest.resolve(), settings.workspace.resolve()
    inside = path.is_relative_to(workspace)
    return Schedule(
        campaign=campaign,
        manifest=path.relative_to(workspace).as_posix() if inside else str(path),
        timezone=timezone,
        since=datetime.now(UTC).replace(second=0, microsecond=0),
        **values,
    )


def read_schedules(settings: Settings) -> tuple[Schedule, ...]:
    """Return the schedules of a workspace, by campaign; none if there is no file.

    Raises:
        DamagedError: If the file differs from what was written.
    """
    file = schedules_file(settings)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return ()
    problem = _check(data)
    if isinstance(problem, str):
        letter = Problem(str(file), f"{problem}.")
        raise DamagedError("the file of schedules is damaged", [letter], _ADVICE)
    return problem


def put_schedule(schedule: Schedule, settings: Settings) -> Schedule | None:
    """Keep a schedule, and return the one of the same campaign that it replaces.

    Raises:
        DamagedError: As `read_schedules`.
        OSError: If the workspace cannot be written.
    """
    with _alone(settings):
        kept = {old.campaign: old for old in read_schedules(settings)}
        replaced = kept.get(schedule.campaign)
        kept[schedule.campaign] = schedule
        _write(kept.values(), settings)
    return replaced


def remove_schedule(campaign: str, settings: Settings) -> Schedule:
    """Forget the schedule of a campaign, and return it.

    Raises:
        RefusedError: If the campaign has none.
        DamagedError: As `read_schedules`.
        OSError: If the workspace cannot be written.
    """
    with _alone(settings):
        kept = {old.campaign: old for old in read_schedules(settings)}
        if campaign not in kept:
            text = f"no schedule of that name in {schedules_file(settings)}"
            problem = Problem(campaign, text + nearest(campaign, kept))
            raise RefusedError([problem], outcome="nothing was removed")
        removed = kept.pop(campaign)
        _write(kept.values(), settings)
    return removed


def _check(data: bytes) -> tuple[Schedule, ...] | str:
    """Return the schedules in a file's bytes, or what is wrong with them."""
    try:
        content = _Content.model_validate_json(data)
    except ValidationError:
        return "damaged: it is not what was written"
    if data != _render(content):
        return "damaged: its content differs from the sha256 it carries"
    if content.version != VERSION:
        return f"of version {content.version}; this program reads version {VERSION}"
    try:
        return tuple(Schedule.model_validate(schedule) for schedule in content.schedules)
    except ValidationError:
        return "damaged: a schedule in it lacks a value, or holds a wrong one"


def _write(schedules: Iterable[Schedule], settings: Settings) -> None:
    listed = sorted(schedules, key=lambda schedule: schedule.campaign)
    file = schedules_file(settings)
    for stale in file.parent.glob(f".{FILE}.*.tmp"):
        stale.unlink()  # of a process that died while it wrote; nobody else writes now
    values = [schedule.model_dump(mode="json") for schedule in listed]
    write_durably(file, _render(_Content(about=_ABOUT, version=VERSION, schedules=values)))


def _render(content: _Content) -> bytes:
    """Return the one way to write this content; any other byte is damage."""
    values = content.model_dump(exclude={"sha256"})
    whole = {**values, "sha256": digest_mapping(values)}
    return json.dumps(whole, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


@contextmanager
def _alone(settings: Settings) -> Generator[None]:
    """Hold the file of schedules: of two commands at once, none loses the other's change."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    with (settings.state_dir / "schedules.lock").open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
