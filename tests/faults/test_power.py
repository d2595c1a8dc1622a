"""The power goes before any operation of a campaign: what was acknowledged is there afterwards.

No kill can show a missing fsync, so the disk is a model (`power.py`); encoder and engine are real.
The oracle is the list of what the publisher had returned.
"""

from __future__ import annotations

import os
import random
import stat
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from lynx_engine import publisher
from lynx_engine.digest import digest_file
from lynx_engine.errors import ExitCode, LynxError
from lynx_engine.jobs import PlannedJob
from lynx_engine.lock import lock_campaign
from lynx_engine.orders import ClipDraft
from lynx_engine.pool import InProcessPool
from lynx_engine.provenance.store import read_parts
from lynx_engine.publisher import Publisher
from lynx_engine.results import Rendered, RenderResult
from lynx_engine.settings import Settings
from tests.faults.disk import CAMPAIGN, run_trial, watched
from tests.faults.harness import describe, size
from tests.faults.power import (
    ForgetfulDisk,
    World,
    by_chance,
    lay_out,
    names_without_bytes,
    nothing_unsafe,
)
from tests.support.jobs import make_sleeper_job, plan_of

Figure = Callable[[str], None]
Promise = tuple[str, int, str]
"""Job id, attempt and status."""

JOBS = [make_sleeper_job("", seed=seed) for seed in (1, 2, 3, 4, 5)]
BLANK = make_sleeper_job("fault=nan", seed=6)
DEVICE = "cpu"


def record(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, *, journal: bool, begins: bool = False
) -> ForgetfulDisk:
    """Run a campaign once, and return what its disk held before each operation.

    Unless it `begins`, two rows were rendered and folded before. It folds after every three parts.
    """
    settings = Settings(workspace=workspace)
    folder = settings.campaign_dir(CAMPAIGN)
    folder.parent.mkdir(parents=True)
    settings.state_dir.mkdir()
    if not begins:
        run_trial(settings, InProcessPool(settings, DEVICE), plan_of(*JOBS[:2]))
    disk = ForgetfulDisk(settings.workspace, journal)
    with monkeypatch.context() as patch:
        patch.setattr(publisher, "FOLD_EVERY", 3)
        _note_promises(patch, disk)
        with watched(workspace, disk):
            summary = run_trial(
                settings, InProcessPool(settings, DEVICE), plan_of(*JOBS[2:4], BLANK, JOBS[4])
            )
    assert summary.rendered == 3
    assert len(disk.promises) == 5, "a blank picture is rendered twice"
    return disk


def _note_promises(patch: pytest.MonkeyPatch, disk: ForgetfulDisk) -> None:
    publish, note = Publisher.publish, Publisher.record

    def published(self: Publisher, planned: PlannedJob, draft: ClipDraft) -> Rendered:
        result = publish(self, planned, draft)
        disk.promises.append((planned.job.job_id, planned.attempt, "rendered"))
        return result

    def recorded(
        self: Publisher, planned: PlannedJob, result: RenderResult, *, started_at: datetime
    ) -> None:
        note(self, planned, result, started_at=started_at)
        disk.promises.append((planned.job.job_id, planned.attempt, "failed"))

    patch.setattr(Publisher, "publish", published)
    patch.setattr(Publisher, "record", recorded)


def audit_after_cut(workspace: Path, promises: list[object]) -> Counter[str]:
    """Recover as the next run does, and count what is wrong then."""
    folder = Settings(workspace=workspace).campaign_dir(CAMPAIGN)
    try:
        with lock_campaign(folder):
            pass
        log = read_parts(folder / "provenance")
    except LynxError:
        return Counter(damaged=1)
    rows = list(log.select("job_id", "attempt", "status").iter_rows())
    recorded = {row["clip"]: row["clip_digest"] for row in log.iter_rows(named=True) if row["clip"]}
    clips = {path.name: digest_file(path) for path in (folder / "clips").iterdir()}
    return Counter(
        lost=len(set(promises) - set(rows)),
        duplicate=len(rows) - len(set(rows)),
        unrecorded=len(clips.keys() - recorded.keys()),
        clipless=len(recorded.keys() - clips.keys()),
        torn=sum(recorded[name] != clips[name] for name in recorded.keys() & clips.keys()),
        temps=len(list((folder / "provenance").glob(".*"))),
    )


def cut_everywhere(disk: ForgetfulDisk, place: Path) -> tuple[Counter[str], list[World]]:
    """Let the power go before every operation, in several ways; return counts and worlds."""
    dice = random.Random(2026)
    total: Counter[str] = Counter(cuts=0)
    worlds: list[World] = []
    seen: set[tuple[int, frozenset[tuple[str, bytes | None]]]] = set()
    for moment in disk.moments:
        ways = [nothing_unsafe(moment), names_without_bytes(moment)]
        ways += [
            by_chance(moment, dice, journal=disk.journal) for _ in range(size(quick=1, full=8))
        ]
        for world in ways:
            total["cuts"] += 1
            key = (moment.acknowledged, frozenset(world.items()))
            if key in seen:
                continue
            seen.add(key)
            lay_out(world, place)
            total += audit_after_cut(place, disk.promises[: moment.acknowledged])
            worlds.append(world)
    return total, worlds


WRONG = ("lost", "duplicate", "torn", "clipless", "damaged", "temps", "unrecorded")


@pytest.mark.parametrize("begins", [False, True], ids=["later run", "first run"])
@pytest.mark.parametrize("journal", [True, False], ids=["journal", "strict"])
def test_power_cut_at_any_operation_loses_nothing_that_was_acknowledged(
    tmp_path: Path,
    figure: Figure,
    monkeypatch: pytest.MonkeyPatch,
    journal: bool,
    begins: bool,
) -> None:
    disk = record(tmp_path / "studio", monkeypatch, journal=journal, begins=begins)
    place = tmp_path / "after"
    found, worlds = cut_everywhere(disk, place)
    name = f"power-cut-{'journal' if journal else 'strict'}{'-first' if begins else ''}"
    told = {key: found[key] for key in ("cuts", *WRONG)}
    figure(describe(name, worlds=len(worlds), **told))
    assert not any(found[key] for key in WRONG)
    # Whatever was left, the next run makes it whole.
    settings = Settings(workspace=place)
    for world in worlds[:: size(quick=len(worlds) // 6, full=5)]:
        lay_out(world, place)
        summary = run_trial(settings, InProcessPool(settings, DEVICE), plan_of(*JOBS))
        assert summary.exit_code == ExitCode.OK
        assert audit_after_cut(place, []).total() == 0
        log = read_parts(settings.campaign_dir(CAMPAIGN) / "provenance")
        made = log.filter(log["status"] == "rendered")["job_id"].to_list()
        assert sorted(made) == sorted(job.job_id for job in JOBS)


def without(monkeypatch: pytest.MonkeyPatch, kind: Callable[[int], bool]) -> None:
    """Take away the fsync of files or of folders, before anybody watches it."""
    fsync = os.fsync

    def forgetful(descriptor: int) -> None:
        if not kind(os.fstat(descriptor).st_mode):
            fsync(descriptor)

    # The watcher passes on what is safe when it is told of an fsync: it is not told of these.
    watching = ForgetfulDisk.after

    def after(self: ForgetfulDisk, operation: object) -> None:
        path = getattr(operation, "path", Path())
        if getattr(operation, "name", "") != "fsync" or not kind(path.stat().st_mode):
            watching(self, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", forgetful)
    monkeypatch.setattr(ForgetfulDisk, "after", after)


@pytest.mark.parametrize(
    ("name", "kind"), [("fsync-file", stat.S_ISREG), ("fsync-folder", stat.S_ISDIR)]
)
def test_mutant_without_an_fsync_loses_what_was_acknowledged(
    tmp_path: Path,
    figure: Figure,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: Callable[[int], bool],
) -> None:
    without(monkeypatch, kind)
    disk = record(tmp_path / "studio", monkeypatch, journal=False)
    found, _ = cut_everywhere(disk, tmp_path / "after")
    assert found["lost"] + found["clipless"] + found["torn"] + found["damaged"] > 0
    figure(f"MUTANT {name} red")
