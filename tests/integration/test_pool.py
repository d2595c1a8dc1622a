"""The pool with real Dask processes and the real engine; devices are CPU workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from distributed import Client

from lynx_engine.digest import digest_file
from lynx_engine.errors import (
    AbandonedError,
    DeviceLostError,
    ErrorCode,
    RefusedError,
    RowError,
)
from lynx_engine.media.video import decode_clip
from lynx_engine.orders import FaceRequest, RenderTask, WorkerSetup
from lynx_engine.pool import InProcessPool, open_cluster_pool, open_pool
from lynx_engine.pool.dask_pool import DevicePool
from lynx_engine.pool.deadlines import Deadlines, Watch
from lynx_engine.pool.remote import leave_answer, read_answer
from lynx_engine.pool.seats import Call
from lynx_engine.settings import Settings
from lynx_engine.worker import POISONED
from tests.support.jobs import astronaut
from tests.support.pools import ignore, sleeper_task
from tests.support.renders import ASTRONAUT_LANDMARKS
from tests.support.renders import make_job as make_variant_job

A = TypeVar("A")
T = TypeVar("T")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("pool")
    return Settings(workspace=folder, cache=folder / "cache")


@pytest.fixture(scope="module")
def pool(settings: Settings) -> Generator[DevicePool]:
    with open_pool(settings, ("cpu",)) as opened:
        yield opened


def request(variant: str = "tiny") -> FaceRequest:
    return FaceRequest(
        variant=variant,
        precision="float32",
        photo=astronaut(),
        photo_digest=digest_file(astronaut()),
        landmarks=ASTRONAUT_LANDMARKS,
    )


def test_device_process_renders_keeps_its_model_warm_and_tells_its_stages(
    pool: DevicePool, settings: Settings, tmp_path: Path
) -> None:
    face = pool.embed_face("cpu", request())
    told: list[tuple[str, int, int]] = []
    drafts = [
        pool.render(
            "cpu",
            RenderTask(
                replace(make_variant_job("tiny"), seed=seed), face, tmp_path / f"{seed}.mp4"
            ),
            lambda *progress: told.append(progress),
        )
        for seed in (1, 2)
    ]
    assert [draft.worker.device for draft in drafts] == ["cpu", "cpu"]
    assert drafts[1].worker.stages_s["load"] == 0.0
    assert {draft.clip.frames_digest for draft in drafts} == {
        decode_clip(draft.path).frames_digest for draft in drafts
    }
    deadline = time.monotonic() + 10
    while "denoise" not in {stage for stage, _, _ in told} and time.monotonic() < deadline:
        time.sleep(0.05)  # events travel beside the results
    assert {"denoise", "encode"} <= {stage for stage, _, _ in told}

    # The process boundary changes nothing: the same job here gives the same frames.
    here = InProcessPool(settings, "cpu")
    task = RenderTask(
        replace(make_variant_job("tiny"), seed=2),
        here.embed_face("cpu", request()),
        tmp_path / "here.mp4",
    )
    draft = here.render("cpu", task, lambda *_: None)
    assert draft.clip.frames_digest == drafts[1].clip.frames_digest


def test_error_of_a_row_arrives_with_its_code_and_words(pool: DevicePool) -> None:
    changed = replace(request(), photo_digest="0" * 64)
    with pytest.raises(RowError, match="changed after the campaign was planned") as caught:
        pool.embed_face("cpu", changed)
    assert caught.value.code is ErrorCode.IMAGE


def call(pool: DevicePool, work: Callable[[A, WorkerSetup], T], argument: A) -> T:
    """Let any function run in the device's process."""
    watch = Watch(Deadlines(unmeasured_s=60, floor_s=60), None)
    return pool._call("cpu", work, argument, Call(watch))


def _environment(_: None, setup: WorkerSetup) -> tuple[str, str, int, list[str]]:
    heavy = sorted({"prefect", "rich", "typer"} & set(sys.modules))
    return os.environ["CUDA_VISIBLE_DEVICES"], setup.device, os.getsid(0), heavy


def test_device_is_fixed_by_environment_and_prefect_is_not_loaded_there(pool: DevicePool) -> None:
    visible, device, session, heavy = call(pool, _environment, None)
    assert (visible, device, heavy) == ("", "cpu", [])
    assert session != os.getsid(0), "Ctrl-C in the terminal would reach it"


QUICK = {"deadline_s": 3.0, "deadline_floor_s": 2.0}
KILL_S = 10.0


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("segfault", "was killed by SIGSEGV"),
        ("exit", "exited with 0"),
        ("hang", "gave no sign of life for"),
        ("hang_with_lock", "gave no sign of life for"),
    ],
)
def test_row_whose_process_dies_is_told_how_and_the_next_one_finds_a_new_process(
    settings: Settings, tmp_path: Path, fault: str, told: str
) -> None:
    quick = settings.model_copy(update=QUICK)
    with open_pool(quick, ("cpu",)) as pool:
        first = pool.render("cpu", sleeper_task(tmp_path, "sleep=0.1"), ignore)
        started = time.monotonic()
        with pytest.raises(RowError, match=told) as caught:
            pool.render("cpu", sleeper_task(tmp_path, f"fault={fault}"), ignore)
        died = time.monotonic()
        assert caught.value.code is ErrorCode.WORKER_DIED
        assert "last heard of in stage " in str(caught.value)
        if fault == "segfault":
            assert "Segmentation fault" in caught.value.stderr, "its own last words"
        assert died - started < QUICK["deadline_s"] + KILL_S
        again = pool.render("cpu", sleeper_task(tmp_path, "sleep=0.1", seed=2), ignore)
        assert time.monotonic() - died < 5 + 5, "replaced within 5 s, and the row itself"
        assert {first.clip.frames, again.clip.frames} == {5}


def test_ffmpeg_that_hangs_is_ended_with_its_row(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = tmp_path / "bin" / "ffmpeg"
    stuck.parent.mkdir()
    stuck.write_text("#!/bin/sh\ntrap '' TERM\nexec sleep 987654\n")
    stuck.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stuck.parent}{os.pathsep}{os.environ['PATH']}")
    with open_pool(settings.model_copy(update=QUICK), ("cpu",)) as pool:
        with pytest.raises(RowError, match=r"gave no sign of life .*stage encode") as caught:
            pool.render("cpu", sleeper_task(tmp_path, ""), ignore)
        assert caught.value.code is ErrorCode.WORKER_DIED
        assert [p for p in psutil.process_iter() if "987654" in _command_of(p)] == []


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_process_that_never_says_hello_is_started_anew_and_then_given_up(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, time\n"
        f"seen = pathlib.Path({str(tmp_path)!r})\n"
        "(seen / f'start-{time.time_ns()}').touch()\n"
        "time.sleep(1000)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    quick = settings.model_copy(update={"worker_start_s": 1.0})
    with open_pool(quick, ("cpu",)) as pool:
        with pytest.raises(DeviceLostError, match="cpu: its process did not say hello within 1 s"):
            pool.render("cpu", sleeper_task(tmp_path, ""), ignore)
        assert len(list(tmp_path.glob("start-*"))) >= 3


def test_abandoned_call_ends_at_once_and_no_process_outlives_the_pool(
    settings: Settings, tmp_path: Path
) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    started = time.monotonic()
    with open_pool(settings, ("cpu",)) as pool:
        threading.Timer(1.0, pool.abandon).start()
        with pytest.raises(AbandonedError):
            pool.render("cpu", sleeper_task(tmp_path, "sleep=60"), ignore)
        with pytest.raises(AbandonedError):
            pool.render("cpu", sleeper_task(tmp_path, ""), ignore)
    assert time.monotonic() - started < 20
    left = {child.pid for child in psutil.Process().children(recursive=True)}
    assert left <= before


def test_two_devices_work_at_the_same_time(settings: Settings, tmp_path: Path) -> None:
    with open_pool(settings, ("cpu:0", "cpu:1")) as pool:
        for device, seed in (("cpu:0", 1), ("cpu:1", 2)):
            pool.render(device, sleeper_task(tmp_path, "", seed=seed), ignore)
        started = time.monotonic()
        with ThreadPoolExecutor() as threads:
            drafts = list(
                threads.map(
                    lambda lane: pool.render(
                        lane[0], sleeper_task(tmp_path, "sleep=3", seed=lane[1]), ignore
                    ),
                    (("cpu:0", 3), ("cpu:1", 4)),
                )
            )
        assert time.monotonic() - started < 5.5
        assert [draft.worker.device for draft in drafts] == ["cpu:0", "cpu:1"]


def test_row_that_waits_in_the_process_is_not_charged_with_its_death(
    settings: Settings, tmp_path: Path
) -> None:
    with open_pool(settings, ("cpu",)) as pool, ThreadPoolExecutor() as threads:
        pool.render("cpu", sleeper_task(tmp_path, ""), ignore)
        first = threads.submit(
            pool.render, "cpu", sleeper_task(tmp_path, "sleep=3 fault=exit"), ignore
        )
        time.sleep(0.5)
        behind = threads.submit(
            pool.render, "cpu", sleeper_task(tmp_path, "sleep=0.1", seed=7), ignore
        )
        with pytest.raises(RowError, match="exited with 0"):
            first.result(30)
        assert behind.result(30).clip.frames == 5
        # What it left behind does not speak against the next row either.
        assert pool.render("cpu", sleeper_task(tmp_path, "", seed=8), ignore).clip.frames == 5


def test_row_that_had_finished_is_not_charged_with_the_death_under_the_next_one(
    settings: Settings, tmp_path: Path
) -> None:
    """Its answer dies with the process, now and then; it lies beside its clip all the same."""
    with open_pool(settings, ("cpu",)) as pool, ThreadPoolExecutor() as threads:
        for n in range(8):
            good = sleeper_task(tmp_path, "sleep=0.3", seed=2 * n)
            bad = sleeper_task(tmp_path, "fault=exit", seed=2 * n + 1)
            first = threads.submit(pool.render, "cpu", good, ignore)
            time.sleep(0.1)
            second = threads.submit(pool.render, "cpu", bad, ignore)
            assert first.result(30).path == good.draft
            with pytest.raises(RowError, match="exited with 0"):
                second.result(30)
        assert list(tmp_path.glob("*.answer*")) == []


def test_answer_beside_a_clip_is_heard_when_its_process_died_before_it_was(
    settings: Settings, tmp_path: Path
) -> None:
    with open_pool(settings, ("cpu",)) as pool:
        task = sleeper_task(tmp_path, "")
        draft = pool.render("cpu", task, ignore)
        leave_answer(draft)
        # Rendered again, it would kill its process; what lies beside the clip is taken instead.
        fatal = replace(task, job=replace(task.job, prompt="fault=exit"))
        assert pool.render("cpu", fatal, ignore) == draft
    (tmp_path / "torn.mp4.answer").write_text('{"path": "torn')
    assert read_answer(tmp_path / "torn.mp4") is None


def test_row_that_waits_behind_a_hang_runs_in_the_next_process(
    settings: Settings, tmp_path: Path
) -> None:
    quick = settings.model_copy(update=QUICK)
    with open_pool(quick, ("cpu",)) as pool, ThreadPoolExecutor() as threads:
        pool.render("cpu", sleeper_task(tmp_path, ""), ignore)
        first = threads.submit(
            pool.render, "cpu", sleeper_task(tmp_path, "fault=hang_with_lock"), ignore
        )
        time.sleep(0.5)
        behind = threads.submit(
            pool.render, "cpu", sleeper_task(tmp_path, "sleep=0.1", seed=7), ignore
        )
        with pytest.raises(RowError, match="gave no sign of life"):
            first.result(30)
        assert behind.result(30).clip.frames == 5


def test_second_row_is_in_the_process_when_the_first_one_ends(
    settings: Settings, tmp_path: Path
) -> None:
    with open_pool(settings, ("cpu",)) as pool, ThreadPoolExecutor() as threads:
        pool.render("cpu", sleeper_task(tmp_path, ""), ignore)
        rows = [
            threads.submit(pool.render, "cpu", sleeper_task(tmp_path, "sleep=1", seed=n), ignore)
            for n in (1, 2)
        ]
        drafts = sorted((row.result(30) for row in rows), key=lambda draft: draft.started_at)
        ended = drafts[0].started_at.timestamp() + sum(drafts[0].worker.stages_s.values())
        assert drafts[1].started_at.timestamp() - ended < 0.1


CUDA_ERROR = "CUDA error: an illegal memory access was encountered"


def test_process_whose_device_is_poisoned_ends_itself(tmp_path: Path) -> None:
    """Torch raises AcceleratorError when the context is lost; no further row may meet it."""
    code = (
        "import torch\n"
        "from lynx_engine.orders import setup_for\n"
        "from lynx_engine.worker import DeviceWorker\n"
        "from lynx_engine.settings import Settings\n"
        "setup = setup_for(Settings(), 'cuda:0', 'cpu', expendable=True)\n"
        "with DeviceWorker(setup)._faults():\n"
        f"    raise torch.AcceleratorError({CUDA_ERROR!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == POISONED
    assert CUDA_ERROR in done.stderr


@pytest.fixture
def cluster(tmp_path: Path) -> Generator[str]:
    """A scheduler and two workers with nannies, started by hand as a user does."""
    environment = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "30s"}
    file = tmp_path / "scheduler.json"
    program = [sys.executable, "-m", "distributed.cli"]
    processes = [
        subprocess.Popen(
            [*program[:2], "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
             "--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)],
            env=environment, stderr=subprocess.DEVNULL,
        ),
        *(
            subprocess.Popen(
                [*program[:2], "distributed.cli.dask_worker", "--scheduler-file", str(file),
                 "--name", name, "--nthreads", "1", "--local-directory", str(tmp_path / name),
                 "--no-dashboard"],
                env=environment, stderr=subprocess.DEVNULL,
            )
            for name in ("left", "right")
        ),
    ]  # fmt: skip
    try:
        give_up = time.monotonic() + 60
        while not file.exists() and time.monotonic() < give_up:
            time.sleep(0.1)
        address = str(json.loads(file.read_text())["address"])
        with Client(address, set_as_default=False) as client:
            while len(client.scheduler_info(n_workers=-1)["workers"]) < 2:
                assert time.monotonic() < give_up
                time.sleep(0.1)
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)


def test_running_cluster_renders_and_replaces_a_worker_that_was_killed(
    cluster: str, settings: Settings, tmp_path: Path
) -> None:
    quick = settings.model_copy(update=QUICK)
    with open_cluster_pool(quick, cluster, tmp_path) as pool:
        assert set(pool.devices) == {"left", "right"}
        for device in ("left", "right"):
            draft = pool.render(device, sleeper_task(tmp_path, f"sleep=0.1 {device}"), ignore)
            assert draft.worker.device == device
        # A worker with one thread takes the second row when the first has ended; it is no hang.
        tasks = [sleeper_task(tmp_path, "sleep=2.5", seed=seed, steps=40) for seed in (1, 2)]
        with ThreadPoolExecutor() as threads:
            drafts = list(threads.map(lambda task: pool.render("left", task, ignore), tasks))
        assert [draft.path for draft in drafts] == [task.draft for task in tasks]
        for fault in ("exit", "hang_with_lock"):
            with pytest.raises(RowError) as caught:
                pool.render("left", sleeper_task(tmp_path, f"fault={fault}"), ignore)
            assert caught.value.code is ErrorCode.WORKER_DIED
            again = pool.render("left", sleeper_task(tmp_path, f"after {fault}"), ignore)
            assert again.worker.device == "left"
    # A worker that cannot check clips would withhold each of them for good.
    with (
        pytest.raises(RefusedError) as refused,
        open_cluster_pool(quick, cluster, tmp_path, classifiers=("opennsfw", "falconsai")),
    ):
        pass
    assert str(refused.value).count("cannot check clips: falconsai is not installed: ") == 2
    assert "opennsfw is not" not in str(refused.value)
    # The cluster is the user's: it goes on.
    with open_cluster_pool(quick, cluster, tmp_path) as pool:
        assert set(pool.devices) == {"left", "right"}
    assert list(tmp_path.glob(".probe-*")) == []


def test_address_where_no_scheduler_answers_is_refused(settings: Settings, tmp_path: Path) -> None:
    with (
        pytest.raises(RefusedError, match=r"--cluster tcp://127\.0\.0\.1:9: no Dask scheduler"),
        open_cluster_pool(settings, "tcp://127.0.0.1:9", tmp_path),
    ):
        raise AssertionError("nothing runs there")


def test_in_process_row_is_given_up_at_its_next_step(settings: Settings, tmp_path: Path) -> None:
    pool = InProcessPool(settings, "cpu")
    task = RenderTask(
        make_variant_job("tiny"), pool.embed_face("cpu", request()), tmp_path / "clip.mp4"
    )

    def stop_at_denoise(stage: str, _done: int, _total: int) -> None:
        if stage == "denoise":
            pool.abandon()

    with pytest.raises(AbandonedError):
        pool.render("cpu", task, stop_at_denoise)
