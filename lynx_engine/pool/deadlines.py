"""Says when silence means that a device process hangs.

A row tells of each stage and each sampling step. How long the next sign of life may take follows
from the longest one measured so far for the same model, shape and stage; a row's deadline is the
sum of these, and a hang is found within one of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from lynx_engine.jobs import RenderJob
from lynx_engine.pool.protocol import FINISHING

PATIENCE = 10.0
"""A step may take this many times the longest one measured."""

# They tell nothing of the next one: a device that takes its first row has more to do than any
# later one, and a model is loaded already, or not, or for the first time since a restart.
_UNMEASURED = frozenset({"start", "load"})

Key = tuple[object, ...]


class Deadlines:
    """What was measured in this run; shared by all rows."""

    def __init__(self, *, unmeasured_s: float, floor_s: float) -> None:
        """Allow `unmeasured_s` of silence before anything alike was seen, then `floor_s` at least.

        Args:
            unmeasured_s: Seconds; long enough for the slowest load of a model.
            floor_s: Seconds; a busy machine may stutter.
        """
        self._unmeasured_s = unmeasured_s
        self._floor_s = min(floor_s, unmeasured_s)
        self._longest_s: dict[Key, float] = {}

    def learn(self, key: Key, seconds: float) -> None:
        """Remember how long a step took."""
        self._longest_s[key] = max(seconds, self._longest_s.get(key, 0.0))

    def allowed_s(self, key: Key) -> float:
        """Return how many seconds of silence are allowed."""
        longest_s = self._longest_s.get(key)
        if longest_s is None:
            return self._unmeasured_s
        return max(self._floor_s, PATIENCE * longest_s)


class Watch:
    """Listens to one row."""

    def __init__(
        self,
        deadlines: Deadlines,
        job: RenderJob | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to listen; `job` is None for work that tells nothing on its way."""
        self._deadlines = deadlines
        self._about: Key = () if job is None else (job.variant, job.precision, job.shape)
        self._clock = clock
        self._lock = threading.Lock()
        self.begin()

    def begin(self) -> None:
        """Begin anew: a process has just been asked."""
        with self._lock:
            self._heard, self.stage, self.is_finishing = self._clock(), "start", False

    @property
    def has_heard(self) -> bool:
        """Whether the work has told of anything yet."""
        return self.stage != "start"

    def hear(self, stage: str) -> None:
        """Take a sign of life: the row is in `stage` now."""
        with self._lock:
            self.is_finishing = self.is_finishing or stage == FINISHING
            now = self._clock()
            if self.stage not in _UNMEASURED:
                self._deadlines.learn((*self._about, self.stage), now - self._heard)
            self._heard, self.stage = now, stage

    def restart(self) -> None:
        """Count anew from now: the silence had another reason."""
        with self._lock:
            self._heard = self._clock()

    def overdue_s(self) -> float:
        """Return how many seconds the silence is too long by now; 0.0 or less while it is not."""
        with self._lock:
            allowed_s = self._deadlines.allowed_s((*self._about, self.stage))
            return self._clock() - self._heard - allowed_s

    def silence_s(self) -> float:
        """Return the seconds since the last sign of life."""
        with self._lock:
            return self._clock() - self._heard
