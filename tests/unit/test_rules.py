"""The table of failure rules, line by line."""

from __future__ import annotations

import pytest

from lynx_engine.errors import ErrorCode
from lynx_engine.rules import Again, DeviceHealth, Tries

DIED = ErrorCode.WORKER_DIED


@pytest.mark.parametrize("code", [ErrorCode.IO, ErrorCode.ENCODER])
def test_transient_failure_is_tried_three_times_after_1_4_and_16_seconds(code: ErrorCode) -> None:
    tries = Tries()
    waits = [tries.after(code, transient=True) for _ in range(4)]
    assert waits == [Again(1.0), Again(4.0), Again(16.0), None]


def test_transient_failures_count_together_whatever_they_are() -> None:
    tries = Tries()
    codes = (ErrorCode.IO, ErrorCode.ENCODER, ErrorCode.IO, ErrorCode.ENCODER)
    assert [tries.after(code, transient=True) is None for code in codes] == [False] * 3 + [True]


@pytest.mark.parametrize(
    "code",
    sorted({*ErrorCode} - {DIED, ErrorCode.BAD_CLIP, ErrorCode.BAD_FRAMES}),
)
def test_failure_that_would_come_back_is_never_tried_again(code: ErrorCode) -> None:
    assert Tries().after(code, transient=False) is None


def test_row_that_kills_its_process_has_one_more_try_elsewhere_after_the_others() -> None:
    tries = Tries()
    assert tries.after(DIED, transient=False) == Again(elsewhere=True, last=True)
    assert tries.after(DIED, transient=False) is None
    assert tries.deaths == 2


def test_death_in_an_earlier_run_counts() -> None:
    assert Tries(deaths=1).after(DIED, transient=False) is None


@pytest.mark.parametrize("code", [ErrorCode.BAD_FRAMES, ErrorCode.BAD_CLIP])
def test_spoiled_clip_is_rendered_once_more_elsewhere(code: ErrorCode) -> None:
    tries = Tries()
    assert tries.after(code, transient=False) == Again(elsewhere=True)
    assert tries.after(code, transient=False) is None


def test_kinds_of_failure_are_counted_apart() -> None:
    tries = Tries()
    assert tries.after(ErrorCode.BAD_FRAMES, transient=False) is not None
    assert tries.after(DIED, transient=False) is not None
    assert tries.after(ErrorCode.IO, transient=True) == Again(1.0)


def test_device_is_bad_when_three_different_rows_in_a_row_killed_its_process() -> None:
    health = DeviceHealth()
    assert health.failed("a", "r1", DIED) is None
    assert health.failed("a", "r2", DIED) is None
    assert health.failed("a", "r3", DIED) == ("a", ("r1", "r2", "r3"))


def test_one_row_that_kills_again_and_again_does_not_condemn_its_device() -> None:
    health = DeviceHealth()
    assert [health.failed("a", "r1", DIED) for _ in range(9)] == [None] * 9


def test_deaths_on_several_devices_are_counted_for_each() -> None:
    health = DeviceHealth()
    for n, device in enumerate("ababcc"):
        assert health.failed(device, f"r{n}", DIED) is None
    assert health.failed("b", "r9", DIED) == ("b", ("r1", "r3", "r9"))


def test_row_that_renders_clears_the_device() -> None:
    health = DeviceHealth()
    health.failed("a", "r1", DIED)
    health.failed("a", "r2", DIED)
    assert health.rendered("a", "good") is None
    assert health.failed("a", "r3", DIED) is None
    assert health.failed("a", "r4", DIED) is None
    assert health.failed("a", "r5", DIED) == ("a", ("r3", "r4", "r5"))


def test_row_that_kills_two_devices_is_bad_itself_and_speaks_against_neither() -> None:
    health = DeviceHealth()
    health.failed("a", "bad", DIED)
    assert health.failed("b", "bad", DIED) is None
    for device in "ab":
        health.failed(device, f"{device}1", DIED)
        assert health.failed(device, f"{device}2", DIED) is None, "the bad row counts no more"
        third = health.failed(device, f"{device}3", DIED)
        assert third == (device, (f"{device}1", f"{device}2", f"{device}3"))


def test_device_is_bad_when_three_rows_it_spoiled_came_out_well_elsewhere() -> None:
    health = DeviceHealth()
    for row in ("r1", "r2", "r3"):
        assert health.failed("a", row, ErrorCode.BAD_FRAMES) is None
    assert health.rendered("b", "r1") is None
    assert health.rendered("b", "r2") is None
    assert health.rendered("c", "r3") == ("a", ("r1", "r2", "r3"))


def test_row_that_is_spoiled_wherever_it_goes_speaks_against_no_device() -> None:
    health = DeviceHealth()
    for row in ("r1", "r2", "r3", "r4"):
        assert health.failed("a", row, ErrorCode.BAD_FRAMES) is None
        assert health.failed("b", row, ErrorCode.BAD_FRAMES) is None


def test_row_that_comes_out_well_on_the_device_that_spoiled_it_says_nothing() -> None:
    health = DeviceHealth()
    for row in ("r1", "r2", "r3", "r4"):
        health.failed("a", row, ErrorCode.BAD_FRAMES)
        assert health.rendered("a", row) is None


def test_deaths_and_spoiled_rows_count_together() -> None:
    health = DeviceHealth()
    health.failed("a", "r1", ErrorCode.BAD_FRAMES)
    assert health.rendered("b", "r1") is None
    assert health.failed("a", "r2", DIED) is None
    assert health.failed("a", "r3", DIED) == ("a", ("r1", "r2", "r3"))


@pytest.mark.parametrize("code", sorted({*ErrorCode} - {DIED, ErrorCode.BAD_FRAMES}))
def test_failure_that_is_the_rows_or_ours_speaks_against_no_device(code: ErrorCode) -> None:
    health = DeviceHealth()
    for n in range(9):
        assert health.failed("a", f"r{n}", code) is None
        assert health.rendered("b", f"r{n}") is None
