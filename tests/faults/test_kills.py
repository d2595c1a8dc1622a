"""kill -9 at random points: of device processes, of the orchestrator, of its whole group."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.harness import (
    RUN_S,
    Night,
    audit,
    describe,
    kill_device,
    orphans_after,
    size,
)

Figure = Callable[[str], None]

ROWS = 24


def rows(count: int = ROWS) -> list[str]:
    return ["sleep=0.05"] * count


def test_device_processes_killed_at_random_points_cost_no_row(
    tmp_path: Path, figure: Figure
) -> None:
    dice = random.Random(2026)
    wanted = size(quick=6, full=200)
    kills = orphans = nights = 0
    totals: dict[str, int] = dict.fromkeys(("lost", "duplicate", "torn", "mismatch", "temps"), 0)
    while kills < wanted:
        night = Night(tmp_path / f"night{nights}", rows())
        with night.start() as process:
            while process.poll() is None and kills < wanted:
                time.sleep(dice.uniform(0.1, 1.2))
                kills += kill_device(process.pid, dice)
            _, err = process.communicate(timeout=RUN_S)
        assert process.returncode in {0, 1, 5}, err
        night.finish()
        orphans += orphans_after(night.folder)
        for key, value in audit(night).figures().items():
            totals[key] += value
        nights += 1
    figure(describe("kill-worker", kills=kills, nights=nights, **totals, orphans=orphans))
    assert not any((*totals.values(), orphans))


@pytest.mark.parametrize("whole_group", [False, True], ids=["orchestrator", "group"])
def test_orchestrator_killed_at_random_points_leaves_a_campaign_that_resumes(
    tmp_path: Path, figure: Figure, whole_group: bool
) -> None:
    dice = random.Random(2027)
    wanted = size(quick=4, full=100)
    kills = orphans = nights = 0
    totals: dict[str, int] = dict.fromkeys(("lost", "duplicate", "torn", "mismatch", "temps"), 0)
    while kills < wanted:
        night = Night(tmp_path / f"night{nights}", rows())
        unfinished = True
        while unfinished and kills < wanted:
            with night.start() as process:
                # From the first import to the last fold: a night takes some 4 s.
                time.sleep(dice.uniform(0.5, 5.0))
                unfinished = process.poll() is None
                if unfinished:
                    kill = os.killpg if whole_group else os.kill
                    kill(process.pid, signal.SIGKILL)
                    kills += 1
                    orphans += orphans_after(night.folder)
                process.communicate(timeout=RUN_S)
        night.finish()
        for key, value in audit(night).figures().items():
            totals[key] += value
        nights += 1
    name = "kill-group" if whole_group else "kill-orchestrator"
    figure(describe(name, kills=kills, nights=nights, **totals, orphans=orphans))
    assert not any((*totals.values(), orphans))


def test_hanging_device_process_does_not_outlive_its_orchestrator(
    tmp_path: Path, figure: Figure
) -> None:
    night = Night(tmp_path, ["fault=hang_with_lock", "fault=hang"])
    with night.start() as process:
        time.sleep(5)
        process.kill()
        process.communicate(timeout=RUN_S)
    orphans = orphans_after(night.folder)
    figure(describe("kill-hanging", kills=1, orphans=orphans))
    assert orphans == 0


def test_mutant_without_the_reaper_leaves_orphans(tmp_path: Path, figure: Figure) -> None:
    night = Night(tmp_path, ["fault=hang_with_lock"] * 2)
    with night.start("--mutant", "reaper") as process:
        time.sleep(5)
        process.kill()
        process.communicate(timeout=RUN_S)
    left = orphans_after(night.folder)
    for pid in _left(night):
        os.kill(pid, signal.SIGKILL)
    assert left > 0
    figure("MUTANT reaper red")


def _left(night: Night) -> list[int]:
    from tests.faults.harness import left_behind

    return left_behind(night.folder)


def test_mutant_without_the_rename_publishes_torn_clips(tmp_path: Path, figure: Figure) -> None:
    dice = random.Random(7)
    for attempt in range(12):
        night = Night(tmp_path / str(attempt), rows(12))
        with night.start("--mutant", "rename") as process:
            # Counted from the first clip: a busy machine takes its time to get there.
            deadline = time.monotonic() + 30
            while not list(night.outputs.glob("clips/*")) and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(dice.uniform(0.0, 0.5))
            process.kill()
            process.communicate(timeout=RUN_S)
        orphans_after(night.folder)
        if (night.outputs / "clips").is_dir() and not audit_clips_only(night):
            figure("MUTANT rename red")
            return
    pytest.fail("a clip without the rename was never seen torn")


def audit_clips_only(night: Night) -> bool:
    """Whether every published clip is whole and recorded."""
    found = audit(night)
    return found.torn == 0 and found.mismatch == 0


def test_mutant_that_publishes_before_its_record_is_safe_loses_the_record(
    tmp_path: Path, figure: Figure
) -> None:
    """Killed as soon as a clip is seen, which is where a kill would have to fall."""
    for attempt in range(12):
        night = Night(tmp_path / str(attempt), rows(4))
        with night.start("--mutant", "order") as process:
            deadline = time.monotonic() + 30
            while not list(night.outputs.glob("clips/*")) and time.monotonic() < deadline:
                time.sleep(0.0005)
            process.kill()
            process.communicate(timeout=RUN_S)
        if audit(night).mismatch:
            figure("MUTANT order red")
            return
    pytest.fail("no clip without its record was ever seen")
