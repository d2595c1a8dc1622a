"""A better try takes a weaker one's place: no kill and no power cut shows one as the other.

The oracle is `gated_night.ENDS`: how many tries a row makes, and which one is published.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from lynx_engine import publisher
from lynx_engine.digest import digest_bytes, digest_file
from lynx_engine.gate import at_try
from lynx_engine.jobs import PlannedJob
from lynx_engine.orders import ClipDraft
from lynx_engine.provenance.store import PreparedPart, read_parts
from lynx_engine.publisher import Publisher
from lynx_engine.results import Rendered, RenderResult
from lynx_engine.settings import Settings
from tests.faults.disk import CAMPAIGN, HonestPool, clip_bytes, run_trial, watched
from tests.faults.gated_night import ENDS, job_of, likenesses, plan_now
from tests.faults.harness import ROOT, describe, size
from tests.faults.power import ForgetfulDisk, World, as_written, lay_out
from tests.faults.test_power import WRONG, audit_after_cut, cut_everywhere

Figure = Callable[[str], None]

REPLACING = (1, 2)
"""Rows whose first clip is replaced: by a better weak one, by one that passes."""


def record(workspace: Path, monkeypatch: pytest.MonkeyPatch, *, journal: bool) -> ForgetfulDisk:
    """Run gated rows once; return what the disk held before each operation."""
    settings = Settings(workspace=workspace)
    settings.campaign_dir(CAMPAIGN).parent.mkdir(parents=True)
    settings.state_dir.mkdir()
    disk = ForgetfulDisk(settings.workspace, journal)
    with monkeypatch.context() as patch:
        _note_promises(patch, disk)
        with watched(workspace, disk):
            run_trial(settings, HonestPool(likeness=likenesses()), plan_now(settings, REPLACING))
    assert len(disk.promises) == sum(ENDS[seed][0] for seed in REPLACING)
    return disk


def _note_promises(patch: pytest.MonkeyPatch, disk: ForgetfulDisk) -> None:
    publish, note = Publisher.publish, Publisher.record

    def published(
        self: Publisher, planned: PlannedJob, draft: ClipDraft, *, low_identity: bool = False
    ) -> Rendered:
        result = publish(self, planned, draft, low_identity=low_identity)
        word = "low_identity" if low_identity else "rendered"
        disk.promises.append((planned.job.job_id, planned.attempt, word))
        return result

    def recorded(
        self: Publisher, planned: PlannedJob, result: RenderResult, *, started_at: datetime
    ) -> None:
        note(self, planned, result, started_at=started_at)
        disk.promises.append((planned.job.job_id, planned.attempt, "low_identity"))

    patch.setattr(Publisher, "publish", published)
    patch.setattr(Publisher, "record", recorded)


def assert_ended(workspace: Path, seeds: tuple[int, ...]) -> None:
    """Check that every row came to its end, each try made once, and the right clip is there."""
    folder = Settings(workspace=workspace).campaign_dir(CAMPAIGN)
    log = read_parts(folder / "provenance")
    for seed in seeds:
        job, (made, published) = job_of(seed), ENDS[seed]
        rows = log.filter(log["job_id"] == job.job_id, log["status"] != "interrupted")
        assert rows["gate_try"].to_list() == [*range(1, made + 1)], f"row {seed}"
        found = digest_file(folder / "clips" / job.clip_name)
        assert found == digest_bytes(clip_bytes(at_try(job, published))), f"row {seed}"
    assert len(list((folder / "clips").iterdir())) == len(seeds)
    assert audit_after_cut(workspace, []).total() == 0


def finish(workspace: Path, seeds: tuple[int, ...]) -> None:
    settings = Settings(workspace=workspace)
    run_trial(settings, HonestPool(likeness=likenesses()), plan_now(settings, seeds))
    assert_ended(workspace, seeds)


@pytest.mark.parametrize("journal", [True, False], ids=["journal", "strict"])
def test_power_cut_amid_a_replacement_leaves_each_clip_with_its_own_record(
    tmp_path: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch, journal: bool
) -> None:
    disk = record(tmp_path / "studio", monkeypatch, journal=journal)
    place = tmp_path / "after"
    found, worlds = cut_everywhere(disk, place)
    told = {key: found[key] for key in ("cuts", *WRONG)}
    name = f"power-cut-gate-{'journal' if journal else 'strict'}"
    figure(describe(name, worlds=len(worlds), **told))
    assert not any(found[key] for key in WRONG)
    for world in worlds[:: size(quick=max(len(worlds) // 4, 1), full=3)]:
        lay_out(world, place)
        finish(place, REPLACING)


def killed_worlds(disk: ForgetfulDisk) -> list[tuple[int, World]]:
    """Return what a kill before each operation leaves, with the promises made until then."""
    found: dict[frozenset[tuple[str, bytes | None]], tuple[int, World]] = {}
    for moment in disk.moments:
        world = as_written(moment)
        found[frozenset(world.items())] = (moment.acknowledged, world)
    return list(found.values())


def test_kill_before_any_operation_loses_no_try_and_the_next_run_ends_the_same(
    tmp_path: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = record(tmp_path / "studio", monkeypatch, journal=True)
    place = tmp_path / "after"
    worlds = killed_worlds(disk)
    wrong = dict.fromkeys(WRONG, 0)
    for made, world in worlds:
        lay_out(world, place)
        finish(place, REPLACING)
        lay_out(world, place)
        audit = audit_after_cut(place, disk.promises[:made])
        wrong = {key: count + audit[key] for key, count in wrong.items()}
    figure(describe("kill-gate", kills=len(worlds), **wrong))
    assert not any(wrong.values())
    assert len(worlds) > 30


class _Late:
    """A record that is prepared only when it is committed, after the clip has its name."""

    def __init__(self, prepare: Callable[[], PreparedPart]) -> None:
        self._prepare = prepare

    def commit(self) -> Path:
        return self._prepare().commit()

    def discard(self) -> None:
        pass


def test_mutant_without_the_record_before_the_rename_shows_a_clip_as_another(
    tmp_path: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = publisher.prepare_part
    with monkeypatch.context() as patch:
        patch.setattr(publisher, "prepare_part", lambda *a: _Late(lambda: prepare(*a)))
        disk = record(tmp_path / "studio", monkeypatch, journal=True)
    place = tmp_path / "after"
    torn = 0
    for made, world in killed_worlds(disk):
        lay_out(world, place)
        torn += audit_after_cut(place, disk.promises[:made])["torn"]
    assert torn > 0
    figure("MUTANT gate-order red")


def start(workspace: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.gated_night", str(workspace)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def records_in(workspace: Path) -> int:
    folder = Settings(workspace=workspace).campaign_dir(CAMPAIGN) / "provenance"
    return len(list(folder.glob("part-*")))


def test_orchestrator_killed_after_the_first_try_and_later_goes_on_with_the_right_one(
    tmp_path: Path, figure: Figure
) -> None:
    dice = random.Random(5)
    kills = 0
    for _ in range(size(quick=1, full=12)):
        workspace = tmp_path / str(kills)
        workspace.mkdir()
        for _ in range(4):
            before = records_in(workspace)
            process = start(workspace)
            deadline = time.monotonic() + 60
            # From the first record on: it is that of a first try, with others to come.
            while records_in(workspace) == before and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(dice.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        with start(workspace) as process:
            assert process.wait(60) == 1, "two rows stay under the bar"
        assert_ended(workspace, tuple(ENDS))
    figure(describe("kill-gate-process", kills=kills, lost=0, torn=0, duplicate=0))
    assert kills >= 3
