"""Who is charged with the death of a process that held two rows; its process is a stand-in."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pytest

from lynx_engine.orders import ClipDraft, setup_for
from lynx_engine.pool.deadlines import Deadlines, Watch
from lynx_engine.pool.remote import leave_answer
from lynx_engine.pool.seats import Call, Seat
from lynx_engine.settings import Settings
from lynx_engine.worker import POISONED
from tests.support.jobs import make_job, rendered

KILLED = "was killed by SIGKILL"


@dataclass
class Process:
    """Remembers what is done to it."""

    starts: int = 1
    done: list[str] = field(default_factory=list)

    def address(self) -> str | None:
        return "tcp://device"

    def last_words(self) -> str:
        return "its last words"

    def death(self) -> str:
        return ""

    def end(self) -> None:
        self.done.append("end")

    def replace(self) -> None:
        self.done.append("replace")

    def close(self) -> None:
        self.done.append("close")


@pytest.fixture
def seat(tmp_path: Path) -> Seat:
    return Seat(
        "cpu", Process(), setup_for(Settings(workspace=tmp_path), "cpu", "cpu", expendable=True)
    )


class MakeCall(Protocol):
    def __call__(self, *stages: str, draft: Path | None = None) -> Call: ...


@pytest.fixture
def call(seat: Seat) -> Generator[MakeCall]:
    """Let rows stand in the process of `seat` until the test ends, having told of `stages`."""
    with ExitStack() as stack:

        def make(*stages: str, draft: Path | None = None) -> Call:
            made = Call(Watch(Deadlines(unmeasured_s=60, floor_s=60), make_job()), draft)
            stack.enter_context(seat.queued(made))
            assert seat.is_next(made)
            with seat.starting:
                seat.sent(made)
            for stage in stages:
                made.watch.hear(stage)
            return made

        yield make


def test_row_that_was_alone_in_its_process_is_charged(seat: Seat, call: MakeCall) -> None:
    row = call("denoise")
    assert seat.bury(0, KILLED) == KILLED
    assert seat.blamed[0] is row


def test_death_with_two_rows_is_charged_to_neither_and_each_runs_alone(
    seat: Seat, call: MakeCall
) -> None:
    first, second = call("denoise", "encode"), call("denoise")
    seat.bury(0, KILLED)
    assert seat.blamed[0] is None
    assert (first.alone, second.alone) == (True, True)
    assert (seat.is_next(first), seat.is_next(second)) == (True, False)
    with seat.starting:
        seat.sent(first)
    assert not seat.is_next(second), "it waits until the first has left the process"


def test_row_behind_one_that_must_be_alone_waits(seat: Seat, call: MakeCall) -> None:
    row = call("denoise")
    seat.bury(0, KILLED)
    with seat.starting:
        seat.sent(row)
    behind = Call(Watch(Deadlines(unmeasured_s=60, floor_s=60), make_job(seed=2)))
    with seat.queued(behind):
        assert not seat.is_next(behind)


def test_death_is_charged_to_the_other_row_when_one_has_left_its_answer(
    seat: Seat, call: MakeCall, tmp_path: Path
) -> None:
    done = rendered(make_job())
    leave_answer(ClipDraft(tmp_path / "done.mp4", done.facts, done.worker, datetime.now(UTC)))
    call("denoise", "encode", draft=tmp_path / "done.mp4")
    second = call("denoise", draft=tmp_path / "open.mp4")
    seat.bury(0, KILLED)
    assert seat.blamed[0] is second


def test_lost_device_is_charged_to_the_row_that_renders(seat: Seat, call: MakeCall) -> None:
    call("denoise", "encode", "check")
    second = call()
    seat.bury(0, f"exited with {POISONED}")
    assert seat.blamed[0] is second


def test_lost_device_is_charged_to_a_finishing_row_that_is_alone(
    seat: Seat, call: MakeCall
) -> None:
    row = call("denoise", "encode")
    seat.bury(0, f"exited with {POISONED}")
    assert seat.blamed[0] is row


def test_row_that_was_found_guilty_is_charged_whoever_sees_the_death_first(
    seat: Seat, call: MakeCall
) -> None:
    first, second = call("denoise", "encode"), call("denoise")
    seat.end(0, "gave no sign of life", blamed=first)
    assert seat.bury(0, KILLED) == "gave no sign of life"
    assert seat.bury(0, KILLED) == "gave no sign of life"
    assert seat.blamed[0] is first
    assert second.alone
    assert isinstance(seat.process, Process)
    assert seat.process.done == ["end", "replace"], "one death, one replacement"


def test_row_waits_until_it_or_the_one_before_it_has_told_otherwise(
    seat: Seat, call: MakeCall
) -> None:
    first, second = call("denoise"), call()
    assert (seat.is_waiting(first), seat.is_waiting(second)) == (False, True)
    second.watch.hear("text")
    assert not seat.is_waiting(second)


def test_draft_of_a_row_that_runs_again_is_a_new_file_that_others_cannot_read(
    tmp_path: Path,
) -> None:
    draft = tmp_path / "clip.mp4"
    with draft.open("w") as orphan:
        Call(Watch(Deadlines(unmeasured_s=60, floor_s=60), make_job()), draft).clear_draft()
        orphan.write("an encoder that outlived its process")
    assert draft.stat().st_size == 0
    assert draft.stat().st_mode & 0o777 == 0o600
