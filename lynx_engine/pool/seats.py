"""One device with its process and the calls that wait for it: who is first, who is charged."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from lynx_engine.pool.remote import read_answer
from lynx_engine.worker import WorkerSetup


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


class Seat:
    """One device with its process, and the calls that are made of it, in order.

    Two at most: one that is worked on, and one that waits in the process for the first to end, so
    that no device waits for a message. A call is a path, beside which its answer will lie.

    Attributes:
        device: Its name.
        process: Its process, through all replacements.
        setup: What its process must know.
        starting: Held while the process is started, ended, or given work.
        generation: Counts its processes.
        blamed: Generation -> the call that its process died under.
    """

    def __init__(self, device: str, process: DeviceProcess, setup: WorkerSetup) -> None:
        """Take a process that is starting."""
        self.device = device
        self.process = process
        self.setup = setup
        self.starting = threading.Condition()
        self.generation = 0
        self.blamed: dict[int, Path | None] = {}
        self._calls: list[Path] = []
        self._sent: dict[Path, int] = {}
        self._how: dict[int, str] = {}

    @contextmanager
    def queued(self, call: Path) -> Generator[None]:
        """Stand in the queue during the block."""
        with self.starting:
            self._calls.append(call)
        try:
            yield
        finally:
            with self.starting:
                self._calls.remove(call)
                self._sent.pop(call, None)
                self.starting.notify_all()

    def is_next(self, call: Path) -> bool:
        """Whether the process has every call before this one: it works in the order of arrival."""
        before = self._calls[: self._calls.index(call)]
        return all(self._sent.get(other) == self.generation for other in before)

    def sent(self, call: Path) -> None:
        """Say that the process has the call."""
        self._sent[call] = self.generation
        self.starting.notify_all()

    def is_first(self, call: Path) -> bool:
        """Whether the process works on this call."""
        return self._calls[0] == call

    def end(self, generation: int, how: str) -> None:
        """End the process of that generation, if it is still there; `how` is told as its death."""
        with self.starting:
            if generation == self.generation:
                self._how[generation] = how
                self.process.end()

    def bury(self, generation: int, how: str) -> str:
        """Replace the process of that generation, once; return how it died."""
        with self.starting:
            if generation == self.generation:
                # A row that has left its answer had finished: the process died under the next.
                unanswered = (call for call in self._calls if read_answer(call) is None)
                self.blamed[generation] = next(unanswered, None)
                self._how.setdefault(generation, how)
                self.generation += 1
                self.process.replace()
            return self._how[generation]
