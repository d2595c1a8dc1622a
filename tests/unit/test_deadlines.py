"""When silence means a hang; the clock is the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lynx_engine.pool import remote
from lynx_engine.pool.deadlines import Deadlines, Watch
from lynx_engine.shapes import FrameSize
from tests.support.jobs import make_job
from tests.support.pools import sleeper_task

UNMEASURED_S, FLOOR_S = 1800.0, 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def deadlines() -> Deadlines:
    return Deadlines(unmeasured_s=UNMEASURED_S, floor_s=FLOOR_S)


def watch_steps(deadlines: Deadlines, clock: Clock, *seconds: float, **job: object) -> Watch:
    """Let a row go through denoising steps that take `seconds`."""
    watch = Watch(deadlines, make_job(**job), clock=clock)
    watch.hear("denoise")
    for step_s in seconds:
        clock.now += step_s
        watch.hear("denoise")
    return watch


def allowed_s(watch: Watch, clock: Clock) -> float:
    """Return how long a silence the watch bears, counted from its last sign of life."""
    silence_s = watch.silence_s()
    low, high = 0.0, 1e6
    start = clock.now
    while high - low > 1e-3:
        middle = (low + high) / 2
        clock.now = start + middle
        low, high = (low, middle) if watch.overdue_s() > 0 else (middle, high)
    clock.now = start
    return silence_s + high


def test_first_step_of_its_kind_gets_the_long_deadline(deadlines: Deadlines, clock: Clock) -> None:
    watch = watch_steps(deadlines, clock)
    assert allowed_s(watch, clock) == pytest.approx(UNMEASURED_S, abs=0.01)


def test_step_may_take_ten_times_the_longest_one_seen(deadlines: Deadlines, clock: Clock) -> None:
    watch = watch_steps(deadlines, clock, 7.0, 9.0, 8.0)
    assert allowed_s(watch, clock) == pytest.approx(90.0, abs=0.01)


def test_short_steps_get_the_floor(deadlines: Deadlines, clock: Clock) -> None:
    watch = watch_steps(deadlines, clock, 0.1, 0.1)
    assert allowed_s(watch, clock) == pytest.approx(FLOOR_S, abs=0.01)


def test_floor_is_never_above_the_long_deadline(clock: Clock) -> None:
    deadlines = Deadlines(unmeasured_s=5.0, floor_s=60.0)
    watch = watch_steps(deadlines, clock, 0.1)
    assert allowed_s(watch, clock) == pytest.approx(5.0, abs=0.01)


def test_silence_counts_from_the_last_sign_of_life(deadlines: Deadlines, clock: Clock) -> None:
    watch = watch_steps(deadlines, clock, 1.0)
    clock.now += 59
    watch.hear("denoise")
    clock.now += 59
    assert watch.overdue_s() < 0
    assert watch.silence_s() == 59


def test_other_rows_of_the_same_model_and_shape_know_what_was_measured(
    deadlines: Deadlines, clock: Clock
) -> None:
    watch_steps(deadlines, clock, 9.0)
    assert allowed_s(watch_steps(deadlines, clock, seed=7), clock) == pytest.approx(90, abs=0.01)


@pytest.mark.parametrize(
    "other",
    [
        {"variant": "tiny_lite"},
        {"precision": "bfloat16"},
        {"frames": 81},
        {"size": FrameSize(832, 480)},
    ],
)
def test_rows_of_another_model_or_shape_are_measured_anew(
    deadlines: Deadlines, clock: Clock, other: dict[str, object]
) -> None:
    watch_steps(deadlines, clock, 9.0)
    watch = watch_steps(deadlines, clock, **other)
    assert allowed_s(watch, clock) == pytest.approx(UNMEASURED_S, abs=0.01)


def test_each_stage_has_its_own_measure(deadlines: Deadlines, clock: Clock) -> None:
    watch = watch_steps(deadlines, clock, 9.0)
    clock.now += 20
    watch.hear("decode")
    assert allowed_s(watch, clock) == pytest.approx(UNMEASURED_S, abs=0.01)
    watch = watch_steps(deadlines, clock)
    # The last step, up to the first word of the next stage, counts too.
    assert allowed_s(watch, clock) == pytest.approx(200, abs=0.01)


def test_warm_model_says_nothing_of_how_long_a_cold_one_takes_to_load(
    deadlines: Deadlines, clock: Clock
) -> None:
    warm = Watch(deadlines, make_job(), clock=clock)
    warm.hear("load")
    clock.now += 0.001
    warm.hear("text")
    cold = Watch(deadlines, make_job(), clock=clock)
    cold.hear("load")
    assert allowed_s(cold, clock) == pytest.approx(UNMEASURED_S, abs=0.01)


def test_row_that_has_said_nothing_yet_gets_the_long_deadline(
    deadlines: Deadlines, clock: Clock
) -> None:
    for _ in range(2):
        watch = Watch(deadlines, make_job(), clock=clock)
        assert allowed_s(watch, clock) == pytest.approx(UNMEASURED_S, abs=0.01)
        clock.now += 3
        watch.hear("denoise")


def test_work_that_tells_nothing_gets_the_long_deadline(deadlines: Deadlines, clock: Clock) -> None:
    watch_steps(deadlines, clock, 1.0)
    watch = Watch(deadlines, None, clock=clock)
    clock.now += UNMEASURED_S - 1
    assert watch.overdue_s() < 0
    clock.now += 2
    assert watch.overdue_s() == pytest.approx(1)


def test_silence_for_another_reason_is_forgiven_and_not_measured(
    deadlines: Deadlines, clock: Clock
) -> None:
    watch = watch_steps(deadlines, clock, 6.5)
    clock.now += 500
    watch.restart()
    assert watch.overdue_s() < 0
    clock.now += 2
    watch.hear("denoise")
    assert allowed_s(watch, clock) == pytest.approx(65, abs=0.01)


def test_watch_names_the_stage_it_is_in(deadlines: Deadlines, clock: Clock) -> None:
    watch = Watch(deadlines, make_job(), clock=clock)
    assert watch.stage == "start"
    watch.hear("encode")
    assert watch.stage == "encode"


def test_work_that_is_asked_for_again_begins_anew(deadlines: Deadlines, clock: Clock) -> None:
    watch = watch_steps(deadlines, clock, 2.0, 2.0)
    watch.hear("encode")
    assert (watch.has_heard, watch.is_finishing) == (True, True)
    clock.now += 50
    watch.begin()
    assert (watch.stage, watch.has_heard, watch.is_finishing) == ("start", False, False)
    assert watch.silence_s() == 0.0
    assert allowed_s(watch, clock) == pytest.approx(UNMEASURED_S, abs=0.01)


def test_stage_that_loads_networks_is_told_however_soon_it_follows_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else the silence while a classifier loads would be measured as that of the encoder."""
    told: list[str] = []

    class Listener:
        def log_event(self, _topic: str, said: dict[str, str]) -> None:
            told.append(said["stage"])

    class Hasty:
        def render(self, _task: object, tell: Callable[[str, int, int], None]) -> None:
            for stage in ("encode", "check", "safety", *["safety"] * 20, "score"):
                tell(stage, 0, 1)

    monkeypatch.setattr("distributed.get_worker", Listener)
    monkeypatch.setattr(remote, "_device_worker", lambda _: Hasty())
    monkeypatch.setattr(remote, "leave_answer", lambda _: None)
    setup: Any = None
    remote.render(sleeper_task(tmp_path, ""), setup)
    assert told == ["encode", "safety", "score"], "a word costs the orchestrator half a millisecond"
