"""One device with its process and the calls that are made of it: who goes first, who is charged.

Two rows may be in a process at a time, one rendering and one being encoded. A death is charged to
the row whose stage ended the process, where that is known: it was overdue while the process itself
answered, or the device was lost, which only a rendering row can do. Else it is charged to neither,
and each runs again alone, so that whatever dies then is certain.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lynx_engine.orders import ClipDraft, WorkerSetup
from lynx_engine.pool.deadlines import Watch
from lynx_engine.pool.remote import read_answer
from lynx_engine.worker import POISONED


class DeviceProcess(Protocol):
    """The process behind one device, through all its replacements."""

    @property
    def starts(self) -> int:
        """How often a start is tried before the device is given up."""
        ...

    def address(self) -> str | None:
        """Return where Dask reaches the process, None while there is none."""
        ...

    def death(self) -> str:
        """Return how the process died, "" while it lives."""
        ...

    def last_words(self) -> str:
        """Return the last lines that the process wrote to stdout and stderr; "" if nobody knows."""
        ...

    def end(self) -> None:
        """End a process that hangs."""
        ...

    def replace(self) -> None:
        """Put another in the place of a dead one."""
        ...

    def close(self) -> None:
        """Be done with the process."""
        ...


class ProcessDiedError(Exception):
    """The process ended with work of ours in it; says how."""


@dataclass(eq=False, slots=True)
class Call:
    """Work that is asked of a device.

    Attributes:
        watch: Listens to it.
        draft: The clip it makes, beside which its answer will lie; None for work that leaves none.
        alone: Whether a process died with it: it shares none any more.
        holder: Generation of the process that has it; -1 while none has.
    """

    watch: Watch
    draft: Path | None = None
    alone: bool = False
    holder: int = -1

    def answer(self) -> ClipDraft | None:
        """Return what it left before its process died, if it had finished."""
        return None if self.draft is None else read_answer(self.draft)

    def clear_draft(self) -> None:
        """Put an empty file in the draft's place: the last process left a part of a clip in it."""
        if self.draft is not None:
            self.draft.unlink(missing_ok=True)
            self.draft.touch(mode=0o600, exist_ok=False)


class Seat:
    """One device with its process, and the calls that are made of it, in order.

    Attributes:
        device: Its name.
        process: Its process, through all replacements.
        setup: What its process must know.
        starting: Held while the process is started, ended, or given work.
        generation: Counts its processes.
        blamed: Generation -> the call that ended its process for certain, or None.
        last_words: Generation -> the last lines that its process wrote.
    """

    def __init__(self, device: str, process: DeviceProcess, setup: WorkerSetup) -> None:
        """Take a process that is starting."""
        self.device = device
        self.process = process
        self.setup = setup
        self.starting = threading.Condition()
        self.generation = 0
        self.blamed: dict[int, Call | None] = {}
        self.last_words: dict[int, str] = {}
        self._calls: list[Call] = []
        self._how: dict[int, str] = {}

    @contextmanager
    def queued(self, call: Call) -> Generator[None]:
        """Stand in the queue during the block."""
        with self.starting:
            self._calls.append(call)
        try:
            yield
        finally:
            with self.starting:
                self._calls.remove(call)
                self.starting.notify_all()

    def is_next(self, call: Call) -> bool:
        """Whether the process has every call before this one, and none is to be alone in it."""
        before = self._calls[: self._calls.index(call)]
        if call.alone or any(other.alone for other in before):
            return not before
        return all(other.holder == self.generation for other in before)

    def sent(self, call: Call) -> None:
        """Say that the process has the call."""
        call.holder = self.generation
        self.starting.notify_all()

    def is_waiting(self, call: Call) -> bool:
        """Whether the call has not begun: the one before it has the device, or the only thread."""
        return self._calls[0] is not call and not call.watch.has_heard

    def is_alone(self, call: Call) -> bool:
        """Whether the process has no other call."""
        return not any(c.holder == self.generation for c in self._calls if c is not call)

    def end(self, generation: int, how: str, *, blamed: Call | None = None) -> None:
        """End the process of that generation, if it is still there.

        Args:
            generation: Of the process.
            how: Told as its death.
            blamed: The call that is known to be why.
        """
        with self.starting:
            if generation == self.generation:
                self._how[generation] = how
                if blamed is not None:
                    self.blamed[generation] = blamed
                self.process.end()

    def bury(self, generation: int, how: str) -> str:
        """Replace the process of that generation, once; return how it died."""
        with self.starting:
            if generation == self.generation:
                how = self._how.setdefault(generation, how)
                # A row that has left its answer had finished: the process died under the other.
                held = [c for c in self._calls if c.holder == generation and c.answer() is None]
                self.blamed.setdefault(generation, _certain(held, how))
                for call in held:
                    call.alone = True
                self.last_words[generation] = self.process.last_words()
                self.generation += 1
                self.process.replace()
            return self._how[generation]


def _certain(held: list[Call], how: str) -> Call | None:
    """Return the call that ended the process which held these, None if it may be another."""
    if len(held) > 1 and how == f"exited with {POISONED}":
        held = [call for call in held if not call.watch.is_finishing]
    return held[0] if len(held) == 1 else None
