"""The null renderer does what its prompt says, and its picture passes for a clip."""

from __future__ import annotations

import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.jobs import RenderJob
from lynx_engine.media.video import ClipFormat, check_clip, encode_clip
from lynx_engine.rendering import EnginePlace, Rendering
from lynx_engine.shapes import FrameSize
from lynx_engine.sleeper import FAULTS, Sleeper, draw_pattern, load_sleeper
from lynx_engine.variants import get_variant
from tests.support.jobs import make_job

SPEC = get_variant("sleeper")


def sleeper_job(prompt: str = "sleep=0", **changes: object) -> RenderJob:
    base: dict[str, object] = {
        "variant": "sleeper",
        "prompt": prompt,
        "size": FrameSize(32, 32),
        "frames": 5,
        "steps": 4,
    }
    return make_job(**{**base, **changes})


def render(job: RenderJob) -> Rendering:
    return Sleeper().render(job, None)


def test_defaults_of_the_variant_render_to_a_clip_that_passes_its_check(tmp_path: Path) -> None:
    defaults = SPEC.defaults
    job = sleeper_job(size=defaults.size, frames=defaults.frames, fps=defaults.fps)
    clip = ClipFormat(job.frames, job.fps, job.size, job.codec, job.crf)
    path = tmp_path / "clip.mp4"
    encode_clip(render(job).frames, path, clip)
    assert check_clip(path, clip).frames == defaults.frames


@pytest.mark.parametrize("seed", [0, 1, 63, 2**63 - 1])
def test_no_frame_is_blank_and_none_repeats(seed: int) -> None:
    frames = render(sleeper_job(seed=seed, frames=21)).frames
    assert (frames.dtype, frames.shape) == (np.uint8, (21, 32, 32, 3))
    assert frames.std(axis=(1, 2, 3)).min() > 20
    assert len({frame.tobytes() for frame in frames}) == 21


def test_same_job_gives_the_same_frames_and_another_seed_others() -> None:
    def frames(seed: int, prompt: str) -> npt.NDArray[np.uint8]:
        return render(sleeper_job(prompt, seed=seed)).frames

    assert np.array_equal(frames(3, "sleep=0"), frames(3, "load=0 words that mean nothing"))
    assert not np.array_equal(frames(3, "sleep=0"), frames(4, "sleep=0"))


def test_pattern_is_as_wide_and_high_as_the_job_says() -> None:
    assert draw_pattern(sleeper_job(size=FrameSize(48, 16), frames=1)).shape == (1, 16, 48, 3)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    return naps


def test_sleep_is_spread_over_the_steps_and_each_is_told_of(slept: list[float]) -> None:
    told: list[tuple[str, int, int]] = []
    Sleeper().render(
        sleeper_job("sleep=2", steps=4), None, on_stage=lambda *stage: told.append(stage)
    )
    assert slept == [0, 0.5, 0.5, 0.5, 0.5]
    assert told == [("denoise", step, 4) for step in range(4)]


def test_only_the_first_row_of_a_process_loads(slept: list[float]) -> None:
    sleeper = Sleeper()
    for _ in range(2):
        sleeper.render(sleeper_job("load=7", steps=1), None)
    assert slept == [7, 0, 0]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("nan", ErrorCode.BAD_FRAMES),
        ("memory", ErrorCode.OUT_OF_MEMORY),
        ("weights", ErrorCode.WEIGHTS),
    ],
)
def test_fault_of_a_row_has_its_code(fault: str, code: ErrorCode) -> None:
    with pytest.raises(RowError) as caught:
        render(sleeper_job(f"fault={fault}"))
    assert caught.value.code is code


def test_faults_of_disk_and_of_ours_are_no_errors_of_a_row() -> None:
    with pytest.raises(TimeoutError, match="Connection timed out"):
        render(sleeper_job("fault=io"))
    with pytest.raises(ZeroDivisionError):
        render(sleeper_job("fault=exception"))
    with pytest.raises(torch.AcceleratorError):
        render(sleeper_job("fault=device_lost"))


def test_fault_happens_in_the_middle_of_the_steps() -> None:
    told: list[int] = []
    with pytest.raises(RowError):
        Sleeper().render(
            sleeper_job("fault=nan", steps=6),
            None,
            on_stage=lambda _, done, __: told.append(done),
        )
    assert told == [0, 1, 2, 3]


def test_fault_that_happens_once_leaves_its_mark_and_does_not_come_back(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    job = sleeper_job(f"fault=nan once={marker}")
    with pytest.raises(RowError):
        render(job)
    assert marker.exists()
    assert render(job).frames.shape == (5, 32, 32, 3)


SCRIPT = """
import sys
from lynx_engine.sleeper import FAULTS
print("before", flush=True)
FAULTS[sys.argv[1]]()
"""


@pytest.mark.parametrize(("fault", "code"), [("segfault", -signal.SIGSEGV), ("exit", 0)])
def test_fault_that_kills_ends_the_process_without_an_answer(fault: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, fault], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (code, b"before\n")


HANGING = """
import sys, threading
from lynx_engine.sleeper import FAULTS
print("before", flush=True)
threading.Thread(target=FAULTS[sys.argv[1]], daemon=True).start()
print("after", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("fault", "answers"), [("hang", True), ("hang_with_lock", False)])
def test_hang_stops_the_other_threads_only_if_it_keeps_the_interpreters_lock(
    fault: str, answers: bool
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HANGING, fault],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"before\n"
            # That nothing comes can only be seen by waiting; an answer comes within milliseconds.
            heard, _, _ = select.select([process.stdout], [], [], 30 if answers else 1)
            assert bool(heard) is answers
            assert not heard or process.stdout.readline() == b"after\n"
            assert process.poll() is None
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("sleep=long", "is told sleep=long, which is no time; write sleep=0.5"),
        ("load=-1", "is told load=-1, which is no time"),
        ("fault=segfalt", "knows no fault 'segfalt', did you mean 'segfault'?"),
    ],
)
def test_word_that_means_nothing_is_a_letter_and_no_bug(prompt: str, said: str) -> None:
    with pytest.raises(RowError, match=re.escape(said)):
        render(sleeper_job(prompt))


def test_prose_is_no_order() -> None:
    assert len(render(sleeper_job("A person will sleep 0.1 s.")).frames) == 5


def test_every_fault_is_tested_here() -> None:
    raised = {"nan", "memory", "weights", "io", "exception", "device_lost"}
    assert set(FAULTS) == raised | {"segfault", "exit", "hang", "hang_with_lock"}


def test_sleeper_has_no_weights_and_sees_nobody(tmp_path: Path) -> None:
    loaded = load_sleeper(SPEC, EnginePlace("cpu", "float32", tmp_path, tmp_path, 1))
    assert loaded.weights == {}
    assert not SPEC.uses_subject
    with pytest.raises(NotImplementedError, match="no subjects"):
        loaded.engine.embed_face(np.zeros((8, 8, 3), np.uint8), np.zeros((5, 2)))
