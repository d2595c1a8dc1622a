"""Schedules as values: their file, their rhythm, and the ticks Prefect makes of them."""

from __future__ import annotations

import multiprocessing
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.schedules import ticks, turns
from flows.schedules.book import (
    Schedule,
    manifest_of,
    new_schedule,
    put_schedule,
    read_schedules,
    remove_schedule,
    schedules_file,
)
from flows.schedules.serving import shown_url
from flows.schedules.ticks import check_rhythm, interval_of, machine_timezone, next_ticks
from lynx_engine.errors import DamagedError, RefusedError
from lynx_engine.lock import lock_campaign
from lynx_engine.settings import Settings

SINCE = datetime(2026, 10, 24, 10, 0, tzinfo=UTC)


def make_schedule(**values: Any) -> Schedule:
    given = {"campaign": "autumn", "manifest": "m.yaml", "timezone": "UTC", "since": SINCE}
    return Schedule(**{**given, **values})


def days(zone: str, cron: str, first: str, count: int = 3) -> list[str]:
    """The ticks from a day on, by the clock of the zone and with its offset."""
    start = datetime.fromisoformat(f"{first}T00:00:00+00:00")
    found = next_ticks(make_schedule(cron=cron, timezone=zone), count, after=start)
    return [f"{tick:%m-%d %H:%M %z}" for tick in found]


@pytest.mark.parametrize(
    ("zone", "first", "expected"),
    [
        ("Europe/Berlin", "2026-10-24", ["10-24 22:00 +0200", "10-25 22:00 +0100"]),
        ("Europe/Berlin", "2027-03-27", ["03-27 22:00 +0100", "03-28 22:00 +0200"]),
        ("America/New_York", "2026-11-01", ["10-31 22:00 -0400", "11-01 22:00 -0500"]),
        ("America/New_York", "2027-03-14", ["03-13 22:00 -0500", "03-14 22:00 -0400"]),
        ("Asia/Kolkata", "2027-03-28", ["03-28 22:00 +0530", "03-29 22:00 +0530"]),
        ("Pacific/Auckland", "2026-09-26", ["09-26 22:00 +1200", "09-27 22:00 +1300"]),
        ("Pacific/Auckland", "2027-04-03", ["04-03 22:00 +1300", "04-04 22:00 +1200"]),
    ],
)
def test_ten_in_the_evening_stays_ten_in_the_evening_when_clocks_change(
    zone: str, first: str, expected: list[str]
) -> None:
    assert days(zone, "0 22 * * *", first, 2) == expected


def test_time_that_a_spring_night_skips_ticks_once_an_hour_early_by_the_clock() -> None:
    # 02:30 does not exist on 28 March 2027 in Berlin; Prefect 3.8.8 makes it 01:30.
    expected = ["03-27 02:30 +0100", "03-28 01:30 +0100", "03-29 02:30 +0200"]
    assert days("Europe/Berlin", "30 2 * * *", "2027-03-27") == expected


def test_time_that_an_autumn_night_has_twice_ticks_the_first_time_only() -> None:
    expected = ["10-24 02:30 +0200", "10-25 02:30 +0200", "10-26 02:30 +0100"]
    assert days("Europe/Berlin", "30 2 * * *", "2026-10-24") == expected


@pytest.mark.parametrize("day", ["2026-10-25", "2027-03-28"])
def test_night_of_the_change_has_one_tick_from_wherever_it_is_counted(day: str) -> None:
    # Prefect counts anew from the present each minute; no start may make a second tick.
    schedule = make_schedule(cron="30 2 * * *", timezone="Europe/Berlin")
    midnight = datetime.fromisoformat(f"{day}T00:00:00+00:00") - timedelta(hours=3)
    found: set[datetime] = set()
    for minutes in range(0, 9 * 60, 7):
        found.update(next_ticks(schedule, 1, after=midnight + timedelta(minutes=minutes)))
    assert len({tick for tick in found if f"{tick:%F}" == day}) == 1


def test_interval_of_days_keeps_the_clock_and_one_of_hours_keeps_the_hours() -> None:
    anchored = {"timezone": "Europe/Berlin", "since": SINCE}
    daily = next_ticks(make_schedule(every="1d", **anchored), 2, after=SINCE)
    assert [f"{tick:%d %H:%M %Z}" for tick in daily] == ["25 12:00 CET", "26 12:00 CET"]
    hourly = next_ticks(make_schedule(every="6h", **anchored), 3, after=SINCE)
    assert [f"{tick:%d %H:%M}" for tick in hourly] == ["24 18:00", "25 00:00", "25 05:00"]
    in_utc = [f"{tick.astimezone(UTC):%d %H:%M}" for tick in hourly]
    assert in_utc == ["24 16:00", "24 22:00", "25 04:00"]


def test_interval_counts_from_when_it_was_made_not_from_when_it_is_served() -> None:
    schedule = make_schedule(every="45min")
    (tick,) = next_ticks(schedule, 1, after=SINCE + timedelta(minutes=100))
    assert tick == SINCE + timedelta(minutes=135)


@pytest.mark.parametrize(
    ("text", "seconds"), [("45min", 2700), ("6h", 21_600), ("1d", 86_400), ("2w", 1_209_600)]
)
def test_interval_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert interval_of(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "6", "h", "0h", "-1h", "1.5h", "6 hours", "1h30min", "1m"])
def test_anything_else_is_no_interval(text: str) -> None:
    with pytest.raises(ValueError, match="as in 45min, 6h or 1d"):
        interval_of(text)


@pytest.mark.parametrize(
    ("cron", "every", "zone", "words"),
    [
        (None, None, "UTC", ["--cron, --every: give one of them"]),
        ("0 22 * * *", "6h", "UTC", ["--cron, --every: give only one of them"]),
        ("0 22 * *", None, "UTC", ["--cron: '0 22 * *' has 4 fields, a schedule has 5"]),
        ("0 0 22 * * *", None, "UTC", ["has 6 fields"]),
        ("61 22 * * *", None, "UTC", ["not a cron expression", '"0 22 * * *" for 22:00']),
        ("R 22 * * *", None, "UTC", ["not a cron expression"]),
        ("0 0 30 2 *", None, "UTC", ["names a day that never comes"]),
        (None, "30s", "UTC", ["--every: '30s' is under a minute"]),
        (None, "6h", "Europe/Berln", ["did you mean 'Europe/Berlin'?"]),
        (None, "6h", "+02:00", ["'+02:00' is no time zone; give an IANA name"]),
        ("x", "y", "z", ["--cron, --every:", "--cron:", "--every:", "--timezone:"]),
    ],
)
def test_wrong_rhythm_is_refused_with_an_example(
    cron: str | None, every: str | None, zone: str, words: list[str]
) -> None:
    with pytest.raises(RefusedError) as caught:
        check_rhythm(cron, every, zone)
    assert [word for word in words if word not in str(caught.value)] == []


def test_right_rhythms_are_accepted() -> None:
    check_rhythm("*/15 8-17 * * mon-fri", None, "Pacific/Auckland")
    check_rhythm(None, "1min", "UTC")


def test_zone_of_the_machine_is_read_from_its_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TZ", raising=False)
    zone = tmp_path / "zoneinfo" / "Asia" / "Kolkata"
    zone.parent.mkdir(parents=True)
    zone.touch()
    (tmp_path / "localtime").symlink_to(zone)
    monkeypatch.setattr(ticks, "LOCALTIME", tmp_path / "localtime")
    assert machine_timezone() == "Asia/Kolkata"
    monkeypatch.setattr(ticks, "LOCALTIME", tmp_path / "absent")
    assert machine_timezone() == "UTC"
    monkeypatch.setattr(ticks, "LOCALTIME", zone.parent)
    with pytest.raises(RefusedError, match="--timezone"):
        machine_timezone()
    monkeypatch.setenv("TZ", ":Europe/Lisbon")
    assert machine_timezone() == "Europe/Lisbon"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(workspace=tmp_path)


def test_schedules_are_kept_by_campaign_and_a_second_replaces_the_first(settings: Settings) -> None:
    assert read_schedules(settings) == ()
    first = make_schedule(every="6h")
    assert put_schedule(first, settings) is None
    assert put_schedule(make_schedule(campaign="aa", cron="0 22 * * *"), settings) is None
    second = make_schedule(every="1d", devices="cuda:0", skip_bad_rows=False)
    assert put_schedule(second, settings) == first
    assert [s.campaign for s in read_schedules(settings)] == ["aa", "autumn"]
    assert read_schedules(settings)[1] == second
    assert remove_schedule("autumn", settings) == second
    with pytest.raises(RefusedError, match="did you mean 'aa'"):
        remove_schedule("aaa", settings)
    assert [path.name for path in settings.workspace.iterdir()] == [".lynx", "schedules.json"]


def test_manifest_in_the_workspace_moves_with_it_and_one_outside_stays(
    tmp_path: Path,
) -> None:
    settings = Settings(workspace=tmp_path / "here")
    inside = new_schedule("a", tmp_path / "here" / "m" / "a.yaml", settings, timezone="UTC")
    outside = new_schedule("b", tmp_path / "b.yaml", settings, timezone="UTC")
    assert inside.manifest == "m/a.yaml"
    moved = Settings(workspace=tmp_path / "there")
    assert manifest_of(inside, moved) == tmp_path / "there" / "m" / "a.yaml"
    assert manifest_of(outside, moved) == tmp_path / "b.yaml"


def test_every_cut_and_every_flipped_bit_of_the_file_is_named(settings: Settings) -> None:
    put_schedule(make_schedule(every="6h", campaign="hérbst"), settings)
    file = schedules_file(settings)
    whole = file.read_bytes()
    cuts = [whole[:length] for length in range(len(whole))]
    flips = [
        whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :]
        for at in range(len(whole))
        for bit in range(8)
    ]
    for data in [*cuts, *flips, b"[" * 100_000]:
        file.write_bytes(data)
        with pytest.raises(DamagedError, match=r"schedules\.json: damaged"):
            read_schedules(settings)
    file.write_bytes(whole)
    assert len(read_schedules(settings)) == 1


def test_damaged_file_is_never_written_over(settings: Settings) -> None:
    file = schedules_file(settings)
    file.write_text("mine")
    with pytest.raises(DamagedError, match="delete it and give each schedule again"):
        put_schedule(make_schedule(every="6h"), settings)
    assert file.read_text() == "mine"


def _put_many(folder: Path, names: list[str]) -> None:
    for name in names:
        put_schedule(make_schedule(campaign=name, every="6h"), Settings(workspace=folder))


def test_two_commands_at_once_lose_no_schedule(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    names = [[f"{worker}-{n}" for n in range(20)] for worker in "ab"]
    processes = [context.Process(target=_put_many, args=(tmp_path, part)) for part in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    kept = [schedule.campaign for schedule in read_schedules(Settings(workspace=tmp_path))]
    assert kept == sorted([*names[0], *names[1]])


def test_turn_waits_while_somebody_else_holds_the_campaign(tmp_path: Path) -> None:
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with lock_campaign(tmp_path):
            held.set()
            free.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(30)
    threading.Timer(0.4, free.set).start()
    started = time.monotonic()
    with turns.wait_for_lock(tmp_path, poll_s=0.05) as turn:
        assert not isinstance(turn, turns.Coalesced)
        assert turn.folder == tmp_path
    assert time.monotonic() - started >= 0.35
    other.join()


def test_tick_that_a_later_one_overtakes_while_it_waits_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([None, None, SINCE])
    monkeypatch.setattr(turns, "superseded_by", lambda: next(answers))
    with lock_campaign(tmp_path), turns.wait_for_lock(tmp_path, poll_s=0.01) as turn:
        assert turn == turns.Coalesced(SINCE)
    state = turns.Coalesced(SINCE).state
    assert (state.name, state.is_cancelled()) == ("Coalesced", True)
    assert state.message == "coalesced into the tick of 2026-10-24 10:00:00 UTC"


def test_nothing_supersedes_a_run_outside_a_deployment() -> None:
    assert turns.superseded_by() is None


def test_password_in_a_server_address_is_not_shown() -> None:
    assert shown_url("https://me:secret@prefect.example/api") == "https://prefect.example/api"
