"""What a run tells other terminals, and how they find out whether it lives."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lynx_engine import live
from lynx_engine.errors import ErrorCode, LockedError
from lynx_engine.live import LIVE_FILE, Holder, LiveProgress, is_running, live_progress, read_live
from lynx_engine.lock import LOCK_FILE, lock_campaign
from lynx_engine.results import Failed, Interrupted
from tests.support.jobs import make_job, planned, rendered
from tests.support.pools import Watcher

JOBS = [make_job(seed=seed) for seed in (1, 2, 3, 4)]
FAILED = Failed(ErrorCode.ENCODER, "broke")


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(live.time, "monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def progress_in(
    folder: Path, *, devices: tuple[str, ...] = ("cpu",), watcher: Watcher | None = None
) -> LiveProgress:
    rows = [planned(job) for job in JOBS]
    return LiveProgress(folder, rows, devices=devices, inner=watcher or Watcher())


def test_run_tells_its_rows_and_those_in_flight(tmp_path: Path, clock: Clock) -> None:
    progress = progress_in(tmp_path)
    for job in JOBS[:3]:
        progress.stage(job, "load", 0, 1)
    progress.finished(planned(JOBS[0]), rendered(JOBS[0]))
    progress.finished(planned(JOBS[1]), FAILED)
    clock.now_s += 5
    progress.stage(JOBS[2], "denoise", 3, 4)
    told = read_live(tmp_path)
    assert told is not None
    assert (told.pid, told.host) == (os.getpid(), platform.node())
    assert (told.rows, told.rendered, told.failed, told.ended) == (4, 1, 1, 2)
    (row,) = told.in_flight
    assert (row.clip, row.device) == (JOBS[2].clip_name, "cpu")
    assert (row.stage, row.done, row.total) == ("denoise", 3, 4)
    assert row.since >= told.started_at


def test_device_of_a_row_is_not_guessed_among_several(tmp_path: Path) -> None:
    progress_in(tmp_path, devices=("cuda:0", "cuda:1")).stage(JOBS[0], "load", 0, 1)
    told = read_live(tmp_path)
    assert told is not None
    assert told.in_flight[0].device == ""


def test_nothing_is_told_before_the_first_stage(tmp_path: Path) -> None:
    with live_progress(tmp_path, [planned(JOBS[0])], devices=("cpu",), inner=Watcher()):
        assert list(tmp_path.iterdir()) == []


def test_what_was_told_is_gone_after_the_run(tmp_path: Path) -> None:
    rows = [planned(JOBS[0])]
    with live_progress(tmp_path, rows, devices=("cpu",), inner=Watcher()) as progress:
        progress.stage(JOBS[0], "load", 0, 1)
        assert [path.name for path in tmp_path.iterdir()] == [LIVE_FILE]
    assert list(tmp_path.iterdir()) == []


def test_run_that_was_refused_leaves_what_another_one_told(tmp_path: Path) -> None:
    (tmp_path / LIVE_FILE).write_text("another run's")
    with live_progress(tmp_path, [], devices=("cpu",), inner=Watcher()):
        pass
    assert (tmp_path / LIVE_FILE).read_text() == "another run's"


def test_file_is_written_once_a_second_at_most(tmp_path: Path, clock: Clock) -> None:
    progress = progress_in(tmp_path)
    seen: list[int] = []
    for step in range(30):
        progress.stage(JOBS[0], "denoise", step, 30)
        told = read_live(tmp_path)
        assert told is not None
        seen.append(told.in_flight[0].done)
        clock.now_s += 0.25
    assert sorted(set(seen)) == list(range(0, 30, 4))


def test_everything_reaches_the_other_observer(tmp_path: Path) -> None:
    watcher = Watcher()
    progress = progress_in(tmp_path, watcher=watcher)
    progress.stage(JOBS[0], "denoise", 1, 4)
    progress.stopping(20.0)
    progress.finished(planned(JOBS[0]), FAILED)
    assert watcher.stages == [(1, "denoise", 1, 4)]
    assert watcher.results == {1: FAILED}
    assert watcher.drains == [20.0]


def test_eta_is_the_mean_time_of_rendered_rows_shared_by_the_devices(
    tmp_path: Path, clock: Clock
) -> None:
    progress = progress_in(tmp_path, devices=("cpu", "cpu"))

    def eta_s() -> float | None:
        told = read_live(tmp_path)
        assert told is not None
        return told.eta_s

    progress.stage(JOBS[0], "load", 0, 1)
    assert eta_s() is None
    clock.now_s += 10
    progress.finished(planned(JOBS[0]), rendered(JOBS[0]))
    assert eta_s() == pytest.approx(3 * 10 / 2)
    progress.stage(JOBS[1], "load", 0, 1)
    clock.now_s += 4
    progress.stage(JOBS[1], "denoise", 1, 4)
    assert eta_s() == pytest.approx((3 * 10 - 4) / 2)
    # A row that fails at once says nothing about how long a clip takes.
    progress.finished(planned(JOBS[1]), FAILED)
    clock.now_s += 2
    progress.finished(planned(JOBS[2]), FAILED)
    # One row is left: a second device does not make it shorter.
    assert eta_s() == pytest.approx(10)


def test_eta_weighs_rows_by_their_cost(tmp_path: Path, clock: Clock) -> None:
    small, large = make_job(steps=4), make_job(steps=12)
    rows = [planned(small), planned(large)]
    progress = LiveProgress(tmp_path, rows, devices=("cpu",), inner=Watcher())
    progress.stage(small, "load", 0, 1)
    clock.now_s += 7
    progress.finished(planned(small), rendered(small))
    told = read_live(tmp_path)
    assert told is not None
    assert told.eta_s == pytest.approx(21)


def test_stop_is_told_at_once_and_has_no_eta(tmp_path: Path, clock: Clock) -> None:
    progress = progress_in(tmp_path)
    progress.stage(JOBS[0], "load", 0, 1)
    progress.stopping(20.0)
    told = read_live(tmp_path)
    assert told is not None
    assert (told.stopping, told.eta_s) == (True, None)
    clock.now_s += 2
    progress.finished(planned(JOBS[0]), Interrupted())
    told = read_live(tmp_path)
    assert told is not None
    assert (told.ended, told.in_flight) == (0, ())


def test_stop_in_the_midst_of_a_write_neither_waits_nor_damages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = progress_in(tmp_path)
    dump: Callable[..., None] = json.dump

    def interrupted(*arguments: object, **options: object) -> None:
        progress.stopping(20.0)  # as a signal's handler does, in the thread that holds the lock
        dump(*arguments, **options)

    monkeypatch.setattr(live.json, "dump", interrupted)
    thread = threading.Thread(target=progress.stage, args=(JOBS[0], "load", 0, 1), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert read_live(tmp_path) is not None
    assert [path.name for path in tmp_path.iterdir()] == [LIVE_FILE]


def test_place_that_cannot_be_written_costs_one_warning_and_no_row(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Watcher()
    progress = progress_in(tmp_path / "gone", watcher=watcher)
    with caplog.at_level(logging.WARNING, logger="lynx_engine"):
        for step in range(3):
            progress.stage(JOBS[0], "denoise", step, 3)
            clock.now_s += 2
        progress.close()
    assert len(watcher.stages) == 3
    assert len(caplog.records) == 1
    assert "other terminals see no progress" in caplog.text


def test_absent_cut_or_foreign_file_is_no_news_and_no_error(tmp_path: Path) -> None:
    assert read_live(tmp_path) is None
    progress_in(tmp_path).stage(JOBS[0], "load", 0, 1)
    path = tmp_path / LIVE_FILE
    whole = path.read_bytes()
    assert read_live(tmp_path) is not None
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read_live(tmp_path) is None
    for foreign in (b"\xff\xfe", b"[]", b"{}", whole.replace(b'"rows": 4', b'"rows": "4"')):
        path.write_bytes(foreign)
        assert read_live(tmp_path) is None


def holder_of(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the campaign until its stdin closes."""
    program = (
        "import sys; from pathlib import Path\n"
        "from lynx_engine.lock import lock_campaign\n"
        f"with lock_campaign(Path({str(folder)!r})):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_holder_is_named_while_it_lives_and_not_after(tmp_path: Path) -> None:
    assert is_running(tmp_path) is None
    with holder_of(tmp_path) as process:
        found = is_running(tmp_path)
        assert found == Holder(process.pid, platform.node())
        assert found is not None
        assert found.is_here
        assert str(found) == (tmp_path / LOCK_FILE).read_text()
        process.kill()
    assert is_running(tmp_path) is None


def test_asking_leaves_the_lock_to_whoever_wants_it(tmp_path: Path) -> None:
    with lock_campaign(tmp_path):
        pass
    # This process lives and holds nothing: the case in which the lock itself is asked.
    for _ in range(50):
        assert is_running(tmp_path) is None
        with lock_campaign(tmp_path):
            assert is_running(tmp_path) is not None
    # Whoever is refused has waited for a moment, so once is enough.
    with lock_campaign(tmp_path), pytest.raises(LockedError), lock_campaign(tmp_path):
        pass


def test_lock_is_not_touched_where_its_last_holder_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["true"]) as dead:
        pass
    (tmp_path / LOCK_FILE).write_text(f"process {dead.pid} on {platform.node()}")
    monkeypatch.setattr(live.fcntl, "flock", lambda *_: pytest.fail("a run may be starting"))
    assert is_running(tmp_path) is None


@pytest.mark.parametrize("text", ["", "process", "process x on y", "\x00\xff", "process 1 on"])
def test_lock_file_without_a_name_is_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK_FILE).write_text(text)
    assert is_running(tmp_path) is None


def test_holder_of_another_machine_is_found_by_the_lock_itself(tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    path.write_text("process 7 on elsewhere")
    assert is_running(tmp_path) is None
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = is_running(tmp_path)
    assert found == Holder(7, "elsewhere")
    assert found is not None
    assert not found.is_here
