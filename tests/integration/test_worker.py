"""The worker of a device process, with the null renderer and the real encoder."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lynx_engine import sleeper, worker
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.orders import RenderTask, setup_for
from lynx_engine.pool import InProcessPool
from lynx_engine.settings import Settings
from lynx_engine.shapes import FrameSize
from lynx_engine.worker import DeviceWorker
from tests.support.jobs import make_sleeper_job


@pytest.fixture
def device(tmp_path: Path) -> DeviceWorker:
    settings = Settings(workspace=tmp_path, cache=tmp_path / "cache")
    return DeviceWorker(setup_for(settings, "cpu", "cpu", expendable=False))


@pytest.fixture
def renderings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that were rendered, not taken from what was kept."""
    seen: list[int] = []
    render = sleeper.Sleeper.render

    def counted(self: sleeper.Sleeper, job: object, face: object, **more: object) -> object:
        seen.append(job.seed)  # type: ignore[attr-defined]
        return render(self, job, face, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(sleeper.Sleeper, "render", counted)
    return seen


def breaking(times: int, error: RowError) -> Callable[..., None]:
    """The encoder, except that it fails at first."""
    encode = worker.encode_clip
    left = [error] * times

    def broken(*arguments: object) -> None:
        if left:
            raise left.pop()
        encode(*arguments)  # type: ignore[arg-type]

    return broken


def task(folder: Path, seed: int = 1) -> RenderTask:
    return RenderTask(make_sleeper_job("", seed=seed), None, folder / f"{seed}.mp4")


def ignore(_stage: str, _done: int, _total: int) -> None:
    pass


def test_frames_that_could_not_be_encoded_are_not_rendered_again(
    device: DeviceWorker,
    renderings: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = device.render(task(tmp_path, seed=5), ignore)
    fault = RowError(ErrorCode.ENCODER, "ffmpeg exited with 1", transient=True)
    monkeypatch.setattr(worker, "encode_clip", breaking(2, fault))
    for _ in range(2):
        with pytest.raises(RowError, match="ffmpeg exited with 1"):
            device.render(task(tmp_path), ignore)
        assert not (tmp_path / "1.mp4").exists()
    again = device.render(task(tmp_path), ignore)
    assert renderings == [5, 1]
    assert again.clip.frames == plain.clip.frames
    # The next job is another one, and nothing of the kept frames is left.
    device.render(task(tmp_path), ignore)
    assert renderings == [5, 1, 1]


def test_only_the_latest_unencoded_frames_are_kept(
    device: DeviceWorker,
    renderings: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault = RowError(ErrorCode.ENCODER, "ffmpeg exited with 1", transient=True)
    monkeypatch.setattr(worker, "encode_clip", breaking(3, fault))
    for seed in (1, 2, 3):
        with pytest.raises(RowError):
            device.render(task(tmp_path, seed=seed), ignore)
    for seed in (2, 3, 1):
        device.render(task(tmp_path, seed=seed), ignore)
    assert renderings == [1, 2, 3, 1]


def test_clip_that_fails_its_check_is_rendered_again(
    device: DeviceWorker,
    renderings: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = RowError(ErrorCode.BAD_CLIP, "the clip is frozen")
    monkeypatch.setattr(worker, "encode_clip", breaking(1, wrong))
    with pytest.raises(RowError):
        device.render(task(tmp_path), ignore)
    device.render(task(tmp_path), ignore)
    assert renderings == [1, 1]


def test_fault_of_a_network_disk_is_told_as_one_that_may_pass(
    device: DeviceWorker, tmp_path: Path
) -> None:
    job = make_sleeper_job("fault=io")
    with pytest.raises(RowError, match="/network/disk: Connection timed out") as caught:
        device.render(RenderTask(job, None, tmp_path / "io.mp4"), ignore)
    assert (caught.value.code, caught.value.transient) == (ErrorCode.IO, True)


def test_model_is_loaded_once_for_each_variant_and_precision(
    device: DeviceWorker, tmp_path: Path
) -> None:
    first = device.load("sleeper", "float32")
    assert device.load("sleeper", "float32") is first
    assert device.load("sleeper", "bfloat16") is not first
    job = replace(make_sleeper_job(""), precision="bfloat16")
    device.render(RenderTask(job, None, tmp_path / "other.mp4"), ignore)
    assert device.load("sleeper", "bfloat16") is not first


def test_strict_matrix_products_are_allowed_where_no_pool_set_the_process_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What torch asks for, on CUDA, before it multiplies under deterministic algorithms.
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    InProcessPool(Settings(workspace=tmp_path, cache=tmp_path / "cache"), "cpu")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_frames_are_held_once_while_the_clip_is_decoded_and_looked_at(
    device: DeviceWorker, tmp_path: Path
) -> None:
    job = make_sleeper_job("", frames=81, size=FrameSize(128, 128))
    clip_bytes = 81 * 128 * 128 * 3
    held: dict[str, int] = {}

    def stage(name: str, _done: int, _total: int) -> None:
        held[name] = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()

    device.load(job.variant, job.precision)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        device.render(RenderTask(job, None, tmp_path / "1.mp4"), stage)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held["check"] - before >= clip_bytes, "the oracle does not see frames"
    # Small pictures for the optical flow come on top of the clip that is decoded.
    assert peak - before < 1.6 * clip_bytes
