"""The table of failure rules at work: real folders and records, several threads, scripted devices.

Every run has a time limit: threads that wait for each other fail the test.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from lynx_engine.campaign import Campaign, open_campaign
from lynx_engine.errors import DeviceLostError, ErrorCode, ExitCode, RowError
from lynx_engine.history import Past, RetryFilter, sort_by_past, status_word
from lynx_engine.jobs import PastResult, RenderJob, RenderPlan, Status
from lynx_engine.lock import lock_campaign
from lynx_engine.orders import RenderTask
from lynx_engine.outcomes import CampaignSummary
from lynx_engine.preflight import Preflight, face_keys
from lynx_engine.provenance.past import History, read_history
from lynx_engine.provenance.store import PreparedPart, read_log, sync_folder
from lynx_engine.settings import Settings
from lynx_engine.survey import intact_clips
from tests.support.jobs import astronaut, make_job, plan_of
from tests.support.pools import ScriptedPool, Watcher

NO_FACES = Preflight({}, {})
LIMIT_S = 60.0
TWO = ("a", "b")


class KilledError(BaseException):
    """Stands for the end of the process: nothing catches it."""


def jobs(count: int) -> list[RenderJob]:
    return [make_job(seed=seed) for seed in range(1, count + 1)]


def run(
    folder: Path,
    pool: ScriptedPool,
    plan: RenderPlan,
    *,
    threads: int = 1,
    faces: Preflight = NO_FACES,
    opened: Callable[[Campaign], None] = lambda _: None,
) -> CampaignSummary:
    """Render a plan as a flow does, `threads` rows at a time."""
    settings = Settings(workspace=folder)
    with (
        lock_campaign(settings.campaign_dir("trial")) as lock,
        open_campaign(
            lock, plan, pool, settings=settings, faces=faces, observer=Watcher()
        ) as campaign,
    ):
        opened(campaign)
        errors: list[BaseException] = []

        def work() -> None:
            try:
                for turn in campaign.turns(threads=threads):
                    campaign.render_row(turn)
            except BaseException as error:  # noqa: BLE001  # raised again by the caller
                errors.append(error)

        workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(LIMIT_S)
            assert not worker.is_alive(), "rows wait for ever"
        for error in errors:
            raise error
        return campaign.summary()


def raising(error: BaseException) -> Callable[[RenderTask], NoReturn]:
    def fail(_: RenderTask) -> NoReturn:
        raise error

    return fail


def kill(_: RenderTask) -> NoReturn:
    raise RowError(ErrorCode.WORKER_DIED, "the process died")


def deadly(device: str, renderings: int = 1000) -> Callable[[str, RenderTask], None]:
    """Let the first `renderings` on `device` end its process."""
    left = [None] * renderings

    def on_render(at: str, task: RenderTask) -> None:
        if at == device and left:
            left.pop()
            kill(task)

    return on_render


def log_of(folder: Path, seed: int) -> list[tuple[int, str, str]]:
    """Return attempt, status and code of each record of a row, oldest first."""
    log = read_log("trial", settings=Settings(workspace=folder))
    rows = log.filter(log["seed"] == seed).iter_rows(named=True)
    return [(row["attempt"], row["status"], row["code"]) for row in rows]


def history(folder: Path) -> History:
    return read_history(folder / "outputs/trial/provenance")


def past(folder: Path, job: RenderJob) -> PastResult:
    return history(folder).by_job[job.job_id]


def plan_again(
    folder: Path, rows: Sequence[RenderJob], retry: RetryFilter | None = None
) -> RenderPlan:
    """Plan as the command line does, by what the log and the clips say now."""
    known = history(folder)
    clips = intact_clips(folder / "outputs/trial/clips", known)
    facts = Past(known.latest, known.by_job, known.attempts, clips)
    to_run, done, held, _ = sort_by_past(rows, facts, retry)
    return RenderPlan("trial", tuple(to_run), tuple(done), tuple(held))


def clips(folder: Path) -> set[str]:
    return {path.name for path in (folder / "outputs/trial/clips").iterdir()}


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lynx_engine.rules.TRANSIENT_WAITS_S", (0.001, 0.002, 0.003))


TRANSIENT = {
    "file": (lambda: TimeoutError(errno.ETIMEDOUT, "Connection timed out", "/nas"), "io"),
    "stale": (lambda: OSError(errno.ESTALE, "Stale file handle", "/nas"), "io"),
    "encoder": (lambda: RowError(ErrorCode.ENCODER, "ffmpeg: 1", transient=True), "encoder"),
}


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("kind", TRANSIENT)
def test_transient_failure_is_tried_three_times_more_and_every_attempt_recorded(
    tmp_path: Path, kind: str
) -> None:
    make_error, code = TRANSIENT[kind]
    pool = ScriptedPool({1: raising(make_error())})
    summary = run(tmp_path, pool, plan_of(*jobs(2)))
    assert log_of(tmp_path, 1) == [(n, "failed", code) for n in (1, 2, 3, 4)]
    assert log_of(tmp_path, 2) == [(1, "rendered", "")]
    assert (summary.failed, summary.rendered, summary.exit_code) == (1, 1, ExitCode.ROWS_FAILED)


@pytest.mark.usefixtures("short_waits")
def test_transient_failure_that_passes_leaves_a_clip_and_what_went_before(tmp_path: Path) -> None:
    failures = [OSError(errno.EBUSY, "Device or resource busy", "x")] * 2

    def on_render(_: str, __: RenderTask) -> None:
        if failures:
            raise failures.pop()

    summary = run(tmp_path, ScriptedPool(on_render=on_render), plan_of(*jobs(1)))
    assert [status for _, status, _ in log_of(tmp_path, 1)] == ["failed", "failed", "rendered"]
    assert (summary.exit_code, summary.failures) == (ExitCode.OK, {})


def test_device_does_other_rows_while_one_waits_and_a_stop_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lynx_engine.rules.TRANSIENT_WAITS_S", (10 * LIMIT_S,))
    pool = ScriptedPool({1: raising(RowError(ErrorCode.IO, "busy", transient=True))})
    rows = jobs(4)

    def opened(campaign: Campaign) -> None:
        def on_render(_: str, task: RenderTask) -> None:
            if task.job.seed == 4:
                campaign.stop(signal.SIGINT, drain_s=20)

        pool.on_render = on_render

    summary = run(tmp_path, pool, plan_of(*rows), threads=3, opened=opened)
    assert pool.seeds == [1, 2, 3, 4]
    assert log_of(tmp_path, 1) == [(1, "failed", "io")]
    assert (summary.rendered, summary.interrupted, summary.exit_code) == (3, 1, 130)


@pytest.mark.parametrize("code", [ErrorCode.BAD_FRAMES, ErrorCode.BAD_CLIP])
def test_spoiled_clip_is_rendered_once_more_on_the_other_device(
    tmp_path: Path, code: ErrorCode
) -> None:
    def on_render(device: str, task: RenderTask) -> None:
        if task.job.seed == 1 and len({name for name, seed in pool.renders if seed == 1}) == 1:
            raise RowError(code, f"NaN on {device}")

    pool = ScriptedPool(devices=TWO, on_render=on_render)
    summary = run(tmp_path, pool, plan_of(*jobs(1)), threads=2)
    assert {device for device, _ in pool.renders} == set(TWO)
    assert log_of(tmp_path, 1) == [(1, "failed", code.value), (2, "rendered", "")]
    assert summary.exit_code == ExitCode.OK


def test_clip_spoiled_twice_is_given_up(tmp_path: Path) -> None:
    pool = ScriptedPool({1: raising(RowError(ErrorCode.BAD_FRAMES, "NaN"))})
    summary = run(tmp_path, pool, plan_of(*jobs(2)))
    assert log_of(tmp_path, 1) == [(1, "failed", "bad_frames"), (2, "failed", "bad_frames")]
    assert summary.failed == 1


def test_device_that_spoils_what_others_render_well_is_blocked(tmp_path: Path) -> None:
    def on_render(device: str, _: RenderTask) -> None:
        if device == "a":
            raise RowError(ErrorCode.BAD_FRAMES, "NaN")

    pool = ScriptedPool(devices=TWO, on_render=on_render)
    summary = run(tmp_path, pool, plan_of(*jobs(9)))
    assert (summary.rendered, summary.exit_code) == (9, ExitCode.OK)
    assert summary.blocked == {"a": "rows that failed on it come out well on others"}
    assert sum(device == "a" for device, _ in pool.renders) == 3


def test_row_that_kills_two_processes_is_quarantined_with_both_attempts_kept(
    tmp_path: Path,
) -> None:
    rows = jobs(6)
    pool = ScriptedPool({1: kill}, devices=TWO)
    summary = run(tmp_path, pool, plan_of(*rows), threads=8)
    assert log_of(tmp_path, 1) == [(1, "failed", "worker_died"), (2, "failed", "worker_died")]
    assert status_word(past(tmp_path, rows[0])) == "quarantined"
    assert {device for device, seed in pool.renders if seed == 1} == set(TWO)
    assert (summary.rendered, summary.failed, summary.blocked) == (5, 1, {})
    (held,) = plan_again(tmp_path, rows).held
    assert held.job == rows[0]


def test_row_that_killed_a_process_comes_again_after_the_others(tmp_path: Path) -> None:
    pool = ScriptedPool({1: kill})
    run(tmp_path, pool, plan_of(*jobs(6)), threads=6)
    assert pool.seeds[0] == 1
    assert set(pool.seeds[1:5]) <= {2, 3, 4, 5, 6}, "it lets those go first that were not tried"
    assert pool.seeds.count(1) == 2


def die_once_and_stop(folder: Path, rows: Sequence[RenderJob]) -> None:
    """Leave a log in which the first row killed one process, in a run that was stopped then."""
    pool = ScriptedPool()

    def opened(campaign: Campaign) -> None:
        def on_render(_: str, task: RenderTask) -> None:
            campaign.stop(signal.SIGTERM, drain_s=20)
            kill(task)

        pool.on_render = on_render

    run(folder, pool, plan_of(*rows), opened=opened)
    assert log_of(folder, rows[0].seed) == [(1, "failed", "worker_died")]


def test_death_in_an_earlier_run_counts(tmp_path: Path) -> None:
    rows = jobs(2)
    die_once_and_stop(tmp_path, rows)
    pool = ScriptedPool({1: kill})
    run(tmp_path, pool, plan_again(tmp_path, rows))
    assert pool.seeds == [2, 1], "no second try; and after the rows that did nothing wrong"
    assert status_word(past(tmp_path, rows[0])) == "quarantined"


def test_row_that_a_person_retries_starts_from_nothing(tmp_path: Path) -> None:
    rows = jobs(1)
    run(tmp_path, ScriptedPool({1: kill}), plan_of(*rows))
    assert plan_again(tmp_path, rows).to_run == ()
    pool = ScriptedPool(on_render=deadly("cpu", 1))
    summary = run(tmp_path, pool, plan_again(tmp_path, rows, RetryFilter()))
    assert pool.seeds == [1, 1]
    assert summary.exit_code == ExitCode.OK
    assert [status for _, status, _ in log_of(tmp_path, 1)] == ["failed"] * 3 + ["rendered"]


@pytest.mark.parametrize("threads", [1, 4, 20])
def test_rows_that_a_bad_device_killed_finish_on_the_other_and_are_not_charged(
    tmp_path: Path, threads: int
) -> None:
    rows = jobs(12)
    third_death = threading.Event()

    def on_render(device: str, task: RenderTask) -> None:
        if device == "a":
            if sum(name == "a" for name, _ in pool.renders) == 3:
                third_death.set()
            kill(task)
        # With one thread, the first row comes here before the device can kill a third one.
        assert threads == 1 or third_death.wait(LIMIT_S / 2), "the bad device gets no rows"

    pool = ScriptedPool(devices=TWO, on_render=on_render)
    summary = run(tmp_path, pool, plan_of(*rows), threads=threads)
    assert (summary.rendered, summary.failed, summary.exit_code) == (12, 0, ExitCode.OK)
    assert summary.blocked == {"a": "3 rows in a row killed its process"}
    assert sum(device == "a" for device, _ in pool.renders) == 3
    assert {row.deaths for row in history(tmp_path).by_job.values()} == {0}


def test_row_that_was_given_up_before_its_device_was_found_bad_gets_its_turn_back(
    tmp_path: Path,
) -> None:
    rows = jobs(3)
    plan = plan_of(*rows)
    # One death of an earlier run: the next one is the last.
    plan = replace(plan, to_run=tuple(replace(row, deaths=1) for row in plan.to_run))
    pool = ScriptedPool(devices=TWO, on_render=deadly("a"))
    summary = run(tmp_path, pool, plan)
    assert pool.renders == [("a", 1), ("a", 2), ("a", 3), ("b", 3), ("b", 1), ("b", 2)]
    assert (summary.rendered, summary.failed, summary.exit_code) == (3, 0, ExitCode.OK)
    for seed in (1, 2):
        statuses = [status for _, status, _ in log_of(tmp_path, seed)]
        assert statuses == ["failed", "interrupted", "rendered"]


@pytest.mark.parametrize("threads", [1, 20])
def test_last_device_found_bad_pauses_the_run_and_no_row_is_charged(
    tmp_path: Path, threads: int
) -> None:
    rows = jobs(5)
    summary = run(tmp_path, ScriptedPool(on_render=deadly("cpu")), plan_of(*rows), threads=threads)
    assert (summary.exit_code, summary.failed, summary.rendered) == (ExitCode.PAUSED, 0, 0)
    assert summary.paused == "no device is left: 3 rows in a row killed its process (cpu)"
    known = history(tmp_path).by_job.values()
    assert len(known) == 3
    assert {(row.status, row.deaths) for row in known} == {(Status.INTERRUPTED, 0)}

    plan = plan_again(tmp_path, rows)
    assert {row.deaths for row in plan.to_run} == {0}
    assert run(tmp_path, ScriptedPool(), plan, threads=threads).exit_code == ExitCode.OK
    assert clips(tmp_path) == {job.clip_name for job in rows}


def test_death_on_a_bad_device_does_not_count_when_the_row_kills_another_later(
    tmp_path: Path,
) -> None:
    rows = jobs(6)
    campaigns: list[Campaign] = []

    def on_render(device: str, task: RenderTask) -> None:
        if device == "a":
            kill(task)
        give_up = time.monotonic() + LIMIT_S / 2
        while not campaigns[0].summary().blocked and time.monotonic() < give_up:
            time.sleep(0.01)  # nothing tells of it
        if task.job.seed == 1:
            campaigns[0].stop(signal.SIGTERM, drain_s=20)
            kill(task)

    pool = ScriptedPool(devices=TWO, on_render=on_render)
    run(tmp_path, pool, plan_of(*rows), threads=20, opened=campaigns.append)
    assert pool.renders.count(("a", 1)) == pool.renders.count(("b", 1)) == 1
    statuses = [(status, code) for _, status, code in log_of(tmp_path, 1)]
    assert statuses == [("failed", "worker_died"), ("interrupted", ""), ("failed", "worker_died")]
    assert past(tmp_path, rows[0]).deaths == 1


def test_lost_device_is_given_up_and_its_row_goes_on_elsewhere_unmarked(tmp_path: Path) -> None:
    def on_render(device: str, _: RenderTask) -> None:
        if device == "a":
            raise DeviceLostError("a: its process exited with 1")

    pool = ScriptedPool(devices=TWO, on_render=on_render)
    summary = run(tmp_path, pool, plan_of(*jobs(6)), threads=4)
    assert summary.blocked == {"a": "a: its process exited with 1"}
    assert (summary.rendered, summary.exit_code) == (6, ExitCode.OK)
    for seed in range(1, 7):
        assert log_of(tmp_path, seed) == [(1, "rendered", "")]


def test_last_device_lost_pauses_and_leaves_no_record(tmp_path: Path) -> None:
    pool = ScriptedPool(dict.fromkeys((1, 2, 3), raising(DeviceLostError("gone"))))
    summary = run(tmp_path, pool, plan_of(*jobs(3)), threads=4)
    assert (summary.exit_code, summary.interrupted) == (ExitCode.PAUSED, 3)
    assert "no device is left: gone" in summary.paused
    assert history(tmp_path).by_job == {}
    assert run(tmp_path, ScriptedPool(), plan_of(*jobs(3))).rendered == 3


def test_weights_that_cannot_be_loaded_fail_their_rows_in_the_same_words_asked_once(
    tmp_path: Path,
) -> None:
    broken = [make_job(seed=seed, variant="tiny_lite") for seed in (11, 12, 13)]

    def on_render(_: str, task: RenderTask) -> None:
        if task.job.variant == "tiny_lite":
            raise RowError(ErrorCode.WEIGHTS, "models/lite.safetensors: is not there.")

    pool = ScriptedPool(on_render=on_render)
    summary = run(tmp_path, pool, plan_of(*jobs(3), *broken))
    assert sum(seed > 10 for seed in pool.seeds) == 1
    assert summary.failures == {
        job.clip_name: "weights: models/lite.safetensors: is not there." for job in broken
    }
    assert (summary.rendered, summary.exit_code) == (3, ExitCode.ROWS_FAILED)
    for job in broken:
        assert log_of(tmp_path, job.seed) == [(1, "failed", "weights")]


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a bug"), FileNotFoundError(errno.ENOENT, "No such file", "x")]
)
def test_bug_is_not_tried_again_keeps_its_traceback_and_exits_3(
    tmp_path: Path, error: Exception
) -> None:
    summary = run(tmp_path, ScriptedPool({1: raising(error)}), plan_of(*jobs(3)), threads=3)
    assert log_of(tmp_path, 1) == [(1, "failed", "internal")]
    (traceback,) = (tmp_path / "outputs/trial").glob("traceback-*.txt")
    assert f"{type(error).__name__}: {error}" in traceback.read_text()
    assert (summary.rendered, summary.exit_code) == (2, ExitCode.BUG)


class FailingDisk:
    """Fails one of the system calls that follow `arm`, or all from that one on."""

    CALLS = ("open", "write", "fsync", "replace", "chmod")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, code: int, at: int, lasts: bool) -> None:
        self.calls = -1
        self.failed = False
        self._code, self._at, self._lasts = code, at, lasts
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    def arm(self) -> None:
        self.calls = max(self.calls, 0)

    def _failing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*args: Any, **keywords: Any) -> Any:
            if self.calls >= 0:
                self.calls += 1
                if self.calls == self._at or (self._lasts and self.calls > self._at):
                    self.failed = True
                    # As the system does: a call on a descriptor knows no name.
                    name = () if isinstance(args[0], int) else (str(args[0]),)
                    raise OSError(self._code, os.strerror(self._code), *name)
            return call(*args, **keywords)

        return failing


def assert_log_and_clips_agree(folder: Path) -> None:
    log = read_log("trial", settings=Settings(workspace=folder))
    recorded = log.filter(log["status"] == "rendered")["clip"].to_list()
    assert sorted(recorded) == sorted(clips(folder)), "a record for every clip, and one only"
    assert intact_clips(folder / "outputs/trial/clips", history(folder)) == clips(folder)
    assert list((folder / "outputs/trial/provenance").glob(".*")) == []
    assert list((folder / "outputs/trial/.drafts").iterdir()) == []


@pytest.mark.parametrize("ending", ["clip", "failure"])
@pytest.mark.parametrize(
    ("code", "lasts"),
    [
        (errno.EIO, False),
        (errno.ENOSPC, False),
        (errno.ENOSPC, True),
        (errno.EROFS, True),
    ],
)
def test_disk_that_fails_at_any_step_of_keeping_a_row_pauses_and_loses_nothing(
    tmp_path: Path, code: int, lasts: bool, ending: str
) -> None:
    rows, at = jobs(3), 0
    for at in range(1, 100):
        folder = tmp_path / str(at)
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = FailingDisk(monkeypatch, code=code, at=at, lasts=lasts)

            def on_render(_: str, task: RenderTask, disk: FailingDisk = disk) -> None:
                if task.job.seed == 2:
                    disk.arm()
                    if ending == "failure":
                        raise RowError(ErrorCode.OUT_OF_MEMORY, "too big")

            pool = ScriptedPool(on_render=on_render)
            summary = run(folder, pool, plan_of(*rows))
        if summary.rendered + summary.failed > 1:
            break  # the second row was kept: the fault came later
        assert disk.failed
        assert (summary.exit_code, summary.rendered) == (ExitCode.PAUSED, 1), f"operation {at}"
        assert summary.paused.endswith(os.strerror(code))
        assert pool.seeds == [1, 2], "nothing begins after a pause"

        again = ScriptedPool()
        run(folder, again, plan_again(folder, rows))
        assert 3 in again.seeds
        assert clips(folder) == {job.clip_name for job in rows}
        assert_log_and_clips_agree(folder)
        log = read_log("trial", settings=Settings(workspace=folder))
        assert log.filter(log["status"] == "rendered").height == 3
    # Record: open, fsync, rename; folder: open, fsync; index: open, write. Clip: mode, rename;
    # folder: open, fsync.
    assert at > (11 if ending == "clip" else 7), "every operation had its turn"


@pytest.mark.parametrize("step", ["fsync of the clips", "rename of the record"])
def test_clip_whose_run_died_before_its_record_was_in_place_is_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    rows = jobs(2)

    def die(*_: object) -> NoReturn:
        raise KilledError

    def die_at_the_clips(folder: Path) -> None:
        if folder.name == "clips":
            raise KilledError
        sync_folder(folder)

    with monkeypatch.context() as patched:
        if step == "fsync of the clips":
            patched.setattr("lynx_engine.publisher.sync_folder", die_at_the_clips)
        else:
            patched.setattr(PreparedPart, "commit", die)
        with pytest.raises(KilledError):
            run(tmp_path, ScriptedPool(), plan_of(*rows))
    assert clips(tmp_path) == {rows[0].clip_name}
    assert history(tmp_path).by_job == {}

    pool = ScriptedPool()
    summary = run(tmp_path, pool, plan_again(tmp_path, rows))
    assert summary.adopted == (rows[0].clip_name,)
    assert pool.seeds == [2], "the adopted row is not rendered again"
    assert (summary.rendered, summary.done_before, summary.exit_code) == (1, 1, ExitCode.OK)
    assert log_of(tmp_path, 1) == [(1, "rendered", "")]
    assert_log_and_clips_agree(tmp_path)


def test_run_that_died_before_the_clip_had_its_name_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = jobs(2)
    real = os.replace

    def die_at_the_clip(source: Any, target: Any) -> None:
        if str(target).endswith(".mp4"):
            raise KilledError
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", die_at_the_clip)
        with pytest.raises(KilledError):
            run(tmp_path, ScriptedPool(), plan_of(*rows))
    assert clips(tmp_path) == set()
    pool = ScriptedPool()
    summary = run(tmp_path, pool, plan_again(tmp_path, rows))
    assert (pool.seeds, summary.adopted) == ([1, 2], ())
    assert_log_and_clips_agree(tmp_path)


def test_log_is_folded_every_so_many_parts_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lynx_engine.publisher.FOLD_EVERY", 3)
    folder = tmp_path / "outputs/trial/provenance"
    parts: list[int] = []

    def on_render(_: str, task: RenderTask) -> None:
        parts.append(len(list(folder.glob("part-*"))))
        if task.job.seed == 4:
            raise RowError(ErrorCode.OUT_OF_MEMORY, "too big")

    run(tmp_path, ScriptedPool(on_render=on_render), plan_of(*jobs(8)))
    assert parts == [0, 1, 2, 0, 1, 2, 0, 1]
    assert [path.name.partition("-")[0] for path in folder.glob("*.parquet")] == ["log"]
    log = read_log("trial", settings=Settings(workspace=tmp_path))
    assert sorted(log["seed"]) == list(range(1, 9))


def faced(count: int) -> tuple[list[RenderJob], Preflight]:
    photo = {"photos": (astronaut(),), "subject_digest": "ab" * 32}
    rows = [make_job(seed=seed, **photo) for seed in range(1, count + 1)]
    return rows, Preflight({face_keys(rows[0])[0]: np.zeros((5, 2), np.float32)}, {})


def test_face_is_embedded_once_while_the_other_device_loads_its_model(tmp_path: Path) -> None:
    rows, faces = faced(6)
    loading = threading.Event()

    def wait_for_the_other(_: str) -> None:
        assert loading.wait(LIMIT_S / 2), "nobody loads meanwhile"

    pool = ScriptedPool(devices=TWO, on_face=wait_for_the_other, on_load=lambda _: loading.set())
    summary = run(tmp_path, pool, plan_of(*rows), threads=6, faces=faces)
    assert len(pool.faces) == 1
    ((device, *model),) = pool.loads
    assert device in TWO
    assert model == ["tiny", "float32"]
    assert (summary.rendered, summary.exit_code) == (6, ExitCode.OK)


def test_face_that_fails_on_one_device_is_embedded_by_the_next_row(tmp_path: Path) -> None:
    rows, faces = faced(3)
    failures = [RowError(ErrorCode.WORKER_DIED, "its process died")]

    def fail_once(_: str) -> None:
        if failures:
            raise failures.pop()

    pool = ScriptedPool(devices=TWO, on_face=fail_once)
    summary = run(tmp_path, pool, plan_of(*rows), threads=6, faces=faces)
    assert len(pool.faces) == 2
    assert (summary.rendered, summary.exit_code) == (3, ExitCode.OK)


def test_every_device_renders_at_once(tmp_path: Path) -> None:
    devices = ("a", "b", "c")
    together = threading.Barrier(3)

    def on_render(_: str, __: RenderTask) -> None:
        together.wait(LIMIT_S / 2)  # breaks, and fails the row, if any device stays idle

    pool = ScriptedPool(devices=devices, on_render=on_render)
    summary = run(tmp_path, pool, plan_of(*jobs(9)), threads=9)
    assert (summary.rendered, summary.exit_code) == (9, ExitCode.OK)


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("seed", range(3))
def test_rows_with_random_faults_all_come_to_an_end_that_the_log_tells(
    tmp_path: Path, seed: int
) -> None:
    """Every row has a clip with one record, or a failure that its rule explains."""
    rows = jobs(60)
    draw = np.random.default_rng(seed)
    kinds: list[Exception | None] = [
        None,
        RowError(ErrorCode.WORKER_DIED, "died"),
        RowError(ErrorCode.BAD_FRAMES, "NaN"),
        RowError(ErrorCode.ENCODER, "ffmpeg: 1", transient=True),
        RowError(ErrorCode.OUT_OF_MEMORY, "too big"),
    ]
    weights = [0.75, 0.05, 0.05, 0.1, 0.05]
    lock = threading.Lock()

    def on_render(_: str, __: RenderTask) -> None:
        with lock:
            error = kinds[int(draw.choice(len(kinds), p=weights))]
        if error is not None:
            raise error

    pool = ScriptedPool(devices=("a", "b", "c"), on_render=on_render)
    summary = run(tmp_path, pool, plan_of(*rows), threads=10)
    assert summary.rendered + summary.failed == 60
    assert summary.interrupted == 0
    latest = history(tmp_path).by_job
    rendered = {row.clip for row in latest.values() if row.status is Status.RENDERED}
    assert rendered == clips(tmp_path)
    assert len(latest) == 60
    assert_log_and_clips_agree(tmp_path)
