"""Holds figures of an idle machine on one that is busy or slow.

A busy core, a shared one or a throttled one makes the same work take up to four times its processor
time. How far it is slowed is measured beside the work, by a loop of known cost.
"""

from __future__ import annotations

import time

IDLE_LOOP_S = 0.12
"""Processor time of the loop on an idle core of the machines this was written on."""

_TURNS = 3_000_000


def slowness() -> float:
    """Return how many times slower than an idle core this machine runs now, at least 1."""
    begin = time.process_time()
    count = 0
    for turn in range(_TURNS):
        count += turn
    return max(1.0, (time.process_time() - begin) / IDLE_LOOP_S)


class Stopwatch:
    """Measures this process's processor time from its making on."""

    def __init__(self) -> None:
        self._before = slowness()
        self._begin = time.process_time()

    def idle_s(self) -> float:
        """Return the seconds the work would have taken on an idle core."""
        took_s = time.process_time() - self._begin
        return took_s / max(self._before, slowness())
