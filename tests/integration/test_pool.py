"""The pool with real Dask processes and the real engine; devices are CPU workers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from lynx_engine.digest import digest_file
from lynx_engine.errors import AbandonedError, ErrorCode, RefusedError, RowError
from lynx_engine.media.video import decode_clip
from lynx_engine.pool import DevicePool, InProcessPool, find_devices, open_pool
from lynx_engine.settings import Settings
from lynx_engine.worker import FaceRequest, RenderTask, WorkerSetup
from tests.support.jobs import astronaut
from tests.support.renders import ASTRONAUT_LANDMARKS
from tests.support.renders import make_job as make_variant_job


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
    face = pool.embed_face(request())
    told: list[tuple[str, int, int]] = []
    drafts = [
        pool.render(
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
    while told.count(("denoise", 4, 4)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)  # events travel beside the results
    assert told.count(("denoise", 4, 4)) == 2

    # The process boundary changes nothing: the same job here gives the same frames.
    here = InProcessPool(settings, "cpu")
    task = RenderTask(
        replace(make_variant_job("tiny"), seed=2), here.embed_face(request()), tmp_path / "here.mp4"
    )
    draft = here.render(task, lambda *_: None)
    assert draft.clip.frames_digest == drafts[1].clip.frames_digest


def test_error_of_a_row_arrives_with_its_code_and_words(pool: DevicePool) -> None:
    changed = replace(request(), photo_digest="0" * 64)
    with pytest.raises(RowError, match="changed after the campaign was planned") as caught:
        pool.embed_face(changed)
    assert caught.value.code is ErrorCode.IMAGE


def _environment(_: None, setups: dict[str, WorkerSetup]) -> tuple[str, int, list[str]]:
    import sys

    heavy = sorted({"prefect", "rich", "typer"} & set(sys.modules))
    return os.environ["CUDA_VISIBLE_DEVICES"], len(setups), heavy


def test_device_is_fixed_by_environment_and_prefect_is_not_loaded_there(pool: DevicePool) -> None:
    assert pool._call(_environment, None) == ("", 1, [])


def _die(_: None, setups: dict[str, WorkerSetup]) -> None:
    del setups
    os._exit(9)


def test_row_whose_process_dies_twice_comes_back_as_worker_died(settings: Settings) -> None:
    with open_pool(settings, ("cpu",)) as pool:
        with pytest.raises(RowError, match="two device processes died") as caught:
            pool._call(_die, None)
        assert caught.value.code is ErrorCode.WORKER_DIED
        # The next row finds a new process.
        assert pool._call(_environment, None)[0] == ""


def _sleep(seconds: float, setups: dict[str, WorkerSetup]) -> None:
    del setups
    time.sleep(seconds)


def test_abandoned_call_ends_at_once_and_no_process_outlives_the_pool(settings: Settings) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    started = time.monotonic()
    with open_pool(settings, ("cpu",)) as pool:
        threading.Timer(1.0, pool.abandon).start()
        with pytest.raises(AbandonedError):
            pool._call(_sleep, 60.0)
        with pytest.raises(AbandonedError):
            pool._call(_environment, None)
    assert time.monotonic() - started < 30
    left = {
        child.pid
        for child in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(child.cmdline())
    }
    assert left <= before


def test_in_process_row_is_given_up_at_its_next_step(settings: Settings, tmp_path: Path) -> None:
    pool = InProcessPool(settings, "cpu")
    task = RenderTask(make_variant_job("tiny"), pool.embed_face(request()), tmp_path / "clip.mp4")

    def stop_at_denoise(stage: str, _done: int, _total: int) -> None:
        if stage == "denoise":
            pool.abandon()

    with pytest.raises(AbandonedError):
        pool.render(task, stop_at_denoise)


@pytest.mark.parametrize(
    ("asked", "gpus", "devices"),
    [
        ("auto", "", ("cpu",)),
        ("auto", "0,1", ("cuda:0", "cuda:1")),
        ("cpu", "0", ("cpu",)),
        ("cpu:2", "", ("cpu", "cpu")),
        ("cuda:1, cpu", "4,7", ("cuda:1", "cpu")),
    ],
)
def test_devices_are_found_or_taken_as_asked(
    monkeypatch: pytest.MonkeyPatch, asked: str, gpus: str, devices: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    assert find_devices(asked) == devices


@pytest.mark.parametrize("asked", ["cuda:2", "gpu", "cpu:0", "cpu:x", ""])
def test_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(RefusedError, match=r"--devices: cannot use .*this machine shows 2 GPUs"):
        find_devices(asked)
