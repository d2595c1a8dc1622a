"""Two rows in one device process, one rendering and one being encoded: what each is charged with.

The processes and the encoder are real; an `ffmpeg` in front of the real one hangs, is slow or kills
its process for the drafts that a test names.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lynx_engine.errors import AbandonedError, ErrorCode, RowError
from lynx_engine.media.video import find_ffmpeg
from lynx_engine.orders import ClipDraft, RenderTask, WorkerSetup, setup_for
from lynx_engine.pool import open_pool
from lynx_engine.pool.dask_pool import DevicePool
from lynx_engine.pool.deadlines import Deadlines, Watch
from lynx_engine.pool.seats import Call
from lynx_engine.settings import Settings
from lynx_engine.worker import DeviceWorker
from tests.support.jobs import make_sleeper_job
from tests.support.pools import ignore, sleeper_task

LIMIT_S = 60.0
QUICK = {"deadline_s": 4.0, "deadline_floor_s": 3.0}

FFMPEG = """#!/bin/sh
case "$*" in
  *.part-stuck.mp4*) echo stuck >> {log}; trap '' TERM; exec sleep 987654;;
  *.part-slow.mp4*) sleep 2;;
  *.part-fatal.mp4*) sleep 0.5; echo fatal >> {log}; kill -9 $PPID; exit;;
  *.part-fatal-once.mp4*)
    test -e {log} || {{ sleep 0.5; echo fatal >> {log}; kill -9 $PPID; exit; }};;
esac
exec {ffmpeg} "$@"
"""


@dataclass
class Bench:
    """A pool of one device with its slow and faulty encoder.

    Attributes:
        pool: The pool.
        folder: Of the drafts.
        threads: Where its calls wait.
    """

    pool: DevicePool
    folder: Path
    threads: ThreadPoolExecutor

    def encoder_calls(self) -> list[str]:
        """Return what the encoder did wrong, once a word."""
        log = self.folder / "encoder.log"
        return log.read_text().split() if log.exists() else []

    def start(self, task: RenderTask) -> tuple[Future[ClipDraft], threading.Event]:
        """Render; the event comes when the next row may begin, as a campaign waits for it."""
        finishing = threading.Event()

        def hear(stage: str, _done: int, _total: int) -> None:
            if stage == "encode":
                finishing.set()

        return self.threads.submit(self.pool.render, "cpu", task, hear), finishing

    def overlapped(
        self, first: RenderTask, second: RenderTask
    ) -> tuple[Future[ClipDraft], Future[ClipDraft]]:
        """Start `first`, and `second` once the first is being encoded."""
        left, finishing = self.start(first)
        assert finishing.wait(LIMIT_S)
        right, _ = self.start(second)
        return left, right

    def task(self, encoder: str, prompt: str, *, seed: int) -> RenderTask:
        """Return a row whose draft tells the encoder what to do; "" leaves it alone."""
        task = sleeper_task(self.folder, prompt, seed=seed)
        name = f"{task.draft.stem}.part-{encoder}.mp4"
        return RenderTask(task.job, None, task.draft.with_name(name))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(workspace=tmp_path, cache=tmp_path / "cache").model_copy(update=QUICK)


@pytest.fixture
def bench(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Bench]:
    script = tmp_path / "bin" / "ffmpeg"
    script.parent.mkdir()
    script.write_text(FFMPEG.format(log=tmp_path / "encoder.log", ffmpeg=find_ffmpeg()))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    with open_pool(settings, ("cpu",)) as pool, ThreadPoolExecutor() as threads:
        bench = Bench(pool, tmp_path, threads)
        # The first row of a process has more to do than any later one.
        pool.render("cpu", bench.task("", "warm", seed=100), ignore)
        yield bench


def test_row_renders_while_the_one_before_it_is_encoded(bench: Bench) -> None:
    futures = bench.overlapped(
        bench.task("slow", "sleep=0.2", seed=1), bench.task("", "sleep=0.5", seed=2)
    )
    first, second = (future.result(LIMIT_S) for future in futures)
    rendered_at = first.started_at.timestamp() + first.worker.stages_s["denoise"]
    assert first.worker.stages_s["encode"] > 2
    assert second.started_at.timestamp() - rendered_at < 1, "it did not wait for the encoder"


def test_no_two_rows_have_the_device_at_a_time(bench: Bench) -> None:
    """Also when a second row is sent before its turn."""
    tasks = [bench.task("", "sleep=1", seed=seed) for seed in (1, 2)]
    drafts = [bench.start(task)[0] for task in tasks]
    first, second = sorted((d.result(LIMIT_S) for d in drafts), key=lambda d: d.started_at)
    rendered_at = first.started_at.timestamp() + first.worker.stages_s["denoise"]
    assert second.started_at.timestamp() >= rendered_at


def test_encoder_that_hangs_is_charged_to_its_row_and_not_to_the_one_that_renders(
    bench: Bench,
) -> None:
    stuck, neighbour = bench.overlapped(
        bench.task("stuck", "", seed=1),
        bench.task(
            "",
            "sleep=8",
            seed=2,
        ),
    )
    with pytest.raises(RowError, match=r"gave no sign of life .*stage encode") as caught:
        stuck.result(LIMIT_S)
    assert caught.value.code is ErrorCode.WORKER_DIED
    assert bench.encoder_calls() == ["stuck"], "it was certain at once"
    assert neighbour.result(LIMIT_S).clip.frames == 5


def test_row_that_hangs_with_the_lock_is_charged_and_not_the_one_whose_encoder_it_silences(
    bench: Bench,
) -> None:
    slow, hanging = bench.overlapped(
        bench.task("slow", "", seed=1), bench.task("", "fault=hang_with_lock", seed=2)
    )
    assert slow.result(LIMIT_S).clip.frames == 5
    with pytest.raises(RowError, match="gave no sign of life") as caught:
        hanging.result(LIMIT_S)
    assert caught.value.code is ErrorCode.WORKER_DIED


def test_row_that_kills_its_process_is_charged_and_not_the_one_that_is_encoded(
    bench: Bench,
) -> None:
    slow, fatal = bench.overlapped(
        bench.task("slow", "", seed=1), bench.task("", "fault=segfault", seed=2)
    )
    assert slow.result(LIMIT_S).clip.frames == 5
    with pytest.raises(RowError, match="was killed by SIGSEGV"):
        fatal.result(LIMIT_S)


def test_encoder_that_kills_its_process_is_charged_and_not_the_row_that_renders(
    bench: Bench,
) -> None:
    fatal, neighbour = bench.overlapped(
        bench.task("fatal", "", seed=1), bench.task("", "sleep=2", seed=2)
    )
    with pytest.raises(RowError, match="was killed by SIGKILL"):
        fatal.result(LIMIT_S)
    assert bench.encoder_calls() == ["fatal"] * 2, "once beside the other row, once alone"
    assert neighbour.result(LIMIT_S).clip.frames == 5


def test_death_that_nobody_can_be_charged_with_costs_neither_row_its_clip(bench: Bench) -> None:
    rows = bench.overlapped(bench.task("fatal-once", "", seed=1), bench.task("", "sleep=2", seed=2))
    first, second = (row.result(LIMIT_S) for row in rows)
    assert bench.encoder_calls() == ["fatal"]
    assert {first.clip.frames, second.clip.frames} == {5}
    ended = first.started_at.timestamp() + sum(first.worker.stages_s.values())
    assert second.started_at.timestamp() >= ended, "each runs alone now"


def _import_torch(_: None, __: WorkerSetup) -> None:
    importlib.import_module("torch")


def test_lost_device_is_charged_to_the_row_that_renders(bench: Bench) -> None:
    # The null renderer loads it only to fail with its error; the encoder would be done by then.
    bench.pool._call(
        "cpu", _import_torch, None, Call(Watch(Deadlines(unmeasured_s=60, floor_s=60), None))
    )
    once = bench.folder / "lost"
    slow, lost = bench.overlapped(
        bench.task("slow", "", seed=1),
        bench.task("", f"fault=device_lost once={once}", seed=2),
    )
    with pytest.raises(RowError, match="exited with 70"):
        lost.result(LIMIT_S)
    assert slow.result(LIMIT_S).clip.frames == 5


def test_row_that_was_in_a_process_that_died_is_alone_in_the_next_ones(bench: Bench) -> None:
    fatal = bench.task("", "fault=exit", seed=1)
    with pytest.raises(RowError):
        bench.pool.render("cpu", fatal, ignore)
    # The neighbour would be lost with it otherwise, and neither could be charged.
    slow, again = bench.overlapped(bench.task("slow", "", seed=2), fatal)
    with pytest.raises(RowError, match="exited with 0"):
        again.result(LIMIT_S)
    assert slow.done()
    assert slow.result().clip.frames == 5


def test_both_rows_of_a_process_are_given_up_at_once(bench: Bench) -> None:
    rows = bench.overlapped(bench.task("stuck", "", seed=1), bench.task("", "sleep=60", seed=2))
    started = time.monotonic()
    bench.pool.abandon()
    for row in rows:
        with pytest.raises(AbandonedError):
            row.result(LIMIT_S)
    assert time.monotonic() - started < 5


@contextmanager
def own_thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_every_thread_that_renders_uses_as_many_cpu_threads_as_the_settings_say(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch keeps the number by thread, and sums split otherwise round otherwise."""
    import torch

    from lynx_engine import sleeper

    seen: list[int] = []
    draw = sleeper.draw_pattern

    def counted(job: object) -> object:
        seen.append(torch.get_num_threads())
        return draw(job)  # type: ignore[arg-type]

    monkeypatch.setattr(sleeper, "draw_pattern", counted)
    two = settings.model_copy(update={"threads": 2})
    before = torch.get_num_threads()
    with own_thread() as left, own_thread() as right:
        for executor in (left, right):
            executor.submit(torch.set_num_threads, 1).result()
        worker = DeviceWorker(setup_for(two, "cpu", "cpu", expendable=False))
        for seed, executor in enumerate((left, right)):
            task = RenderTask(make_sleeper_job("", seed=seed), None, tmp_path / f"{seed}.mp4")
            executor.submit(worker.render, task, ignore).result()
    torch.set_num_threads(before)
    assert seen == [2, 2]
