"""Threads under a virtual clock, one at a time: hours in a second, and every run repeatable.

A real thread stands behind each piece of work, so code that blocks runs as it is; who runs next is
drawn from a seed. When nobody can run and nobody sleeps, that is a deadlock, found at once.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable
from types import SimpleNamespace, TracebackType

_REAL_LIMIT_S = 60.0


class DeadlockError(AssertionError):
    """Every thread waits for another."""


class _ThreadEndError(BaseException):
    """Ends a thread whose world has ended."""


class _Runner:
    def __init__(self, work: Callable[[], object]) -> None:
        self.work = work
        self.baton = threading.Semaphore(0)
        self.error: BaseException | None = None
        self.thread: threading.Thread | None = None


class World:
    """The clock and the threads under it."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self._random = random.Random(seed)
        self._threads: list[_Runner] = []
        self._ready: list[_Runner] = []
        self._asleep: list[tuple[float, int, _Runner]] = []
        self._alive = 0
        self._naps = 0
        self._current: _Runner | None = None
        self._control = threading.Semaphore(0)
        self._ending = False

    def threading(self) -> SimpleNamespace:
        """Return what stands for the module `threading` where code asks for a condition."""
        return SimpleNamespace(Condition=lambda: VirtualCondition(self))

    def spawn(self, work: Callable[[], object]) -> None:
        """Let `work` run in a thread of its own once the world runs."""
        runner = _Runner(work)
        runner.thread = threading.Thread(target=self._live, args=(runner,), daemon=True)
        self._alive += 1
        self._ready.append(runner)

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass for the calling thread."""
        runner = self._running()
        self._naps += 1
        heapq.heappush(self._asleep, (self.now + seconds, self._naps, runner))
        self._hand_back(runner)

    def run(self) -> float:
        """Run until every thread has ended; return the time then.

        Raises:
            DeadlockError: If threads are left and none can run.
        """
        try:
            while self._alive:
                self._step()
        finally:
            self._end_all()
        return self.now

    def wait(self, waiters: list[_Runner]) -> None:
        """Stop the calling thread until somebody wakes `waiters`."""
        runner = self._running()
        waiters.append(runner)
        self._hand_back(runner)

    def wake(self, waiters: list[_Runner]) -> None:
        """Let those who wait run again."""
        self._ready.extend(waiters)
        waiters.clear()

    def _step(self) -> None:
        if not self._ready:
            if not self._asleep:
                raise DeadlockError(f"{self._alive} threads wait for each other at {self.now} s")
            self.now = self._asleep[0][0]
            while self._asleep and self._asleep[0][0] == self.now:
                self._ready.append(heapq.heappop(self._asleep)[2])
        runner = self._ready.pop(self._random.randrange(len(self._ready)))
        self._current = runner
        assert runner.thread is not None
        if runner.thread.ident is None:
            self._threads.append(runner)
            runner.thread.start()
        else:
            runner.baton.release()
        assert self._control.acquire(timeout=_REAL_LIMIT_S), "a thread blocks outside the world"
        if runner.error is not None:
            raise runner.error

    def _live(self, runner: _Runner) -> None:
        try:
            runner.work()
        except _ThreadEndError:
            return
        except BaseException as error:  # noqa: BLE001  # raised again where the world runs
            runner.error = error
        self._alive -= 1
        self._control.release()

    def _running(self) -> _Runner:
        assert self._current is not None, "only a thread of the world may wait"
        return self._current

    def _hand_back(self, runner: _Runner) -> None:
        if not self._ending:
            self._control.release()
            runner.baton.acquire()
        if self._ending:
            raise _ThreadEndError

    def _end_all(self) -> None:
        self._ending = True
        for runner in self._threads:
            runner.baton.release()
        for runner in self._threads:
            assert runner.thread is not None
            runner.thread.join(_REAL_LIMIT_S)
            assert not runner.thread.is_alive()


class VirtualCondition:
    """What `threading.Condition` is, where one thread runs at a time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiters: list[_Runner] = []

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def wait(self) -> None:
        self._world.wait(self._waiters)

    def notify_all(self) -> None:
        self._world.wake(self._waiters)
