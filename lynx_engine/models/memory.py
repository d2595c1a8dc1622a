"""Bounded memory: results worth keeping between jobs, and a way down when a device is full.

It knows sizes and the order of the remedies, not what the networks compute.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Generic, TypeVar

import torch

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.models.device import (
    free_memory_bytes,
    memory_errors,
    peak_memory_bytes,
    release_memory,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")


class SizedCache(Generic[T]):
    """Keeps the values used last, up to a number of bytes.

    A value larger than the whole budget is still kept until the next one comes.
    """

    def __init__(self, budget_bytes: int, size_of: Callable[[T], int]) -> None:
        """Hold at most `budget_bytes`, as `size_of` measures values."""
        self._budget = budget_bytes
        self._size_of = size_of
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._used = 0

    def get_or_make(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value under `key`, made now if it is not there."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = make()
        self._values[key] = value
        self._used += self._size_of(value)
        while self._used > self._budget and len(self._values) > 1:
            _, dropped = self._values.popitem(last=False)
            self._used -= self._size_of(dropped)
        return value

    def get_or_make_all(
        self, keys: Sequence[Hashable], make: Callable[[Sequence[int]], Sequence[T]]
    ) -> list[T]:
        """Return the values under `keys`, those that are not there made together.

        Args:
            keys: In any order, the same one perhaps several times.
            make: Takes the places in `keys` of those to make, each key once; returns their values.
        """
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        found = {key: self._values[key] for key in keys if key in self._values}
        missing = [place for key, place in first.items() if key not in found]
        if missing:
            found.update(zip((keys[n] for n in missing), make(missing), strict=True))
        # Kept one by one, as a small budget may drop some of them at once.
        return [self.get_or_make(key, partial(found.__getitem__, key)) for key in keys]

    def clear(self) -> None:
        """Forget every value."""
        self._values.clear()
        self._used = 0


class MemoryLadder:
    """Takes one job down, a rung at a time, until it fits its device.

    Attributes:
        taken: The rungs in force, in the order they were taken.
    """

    def __init__(
        self,
        take: Callable[[str], bool],
        *,
        what: str,
        device: torch.device,
        taken: tuple[str, ...] = (),
    ) -> None:
        """Stand at the top.

        Args:
            take: Does what the rung of this name promises; False if that is so already.
            what: The job in words that begin a message, as in "81 frames did not fit".
            device: Where the job runs.
            taken: Rungs in force already.
        """
        self.taken = taken
        self._take = take
        self._what = what
        self._device = device

    def fit(self, work: Callable[[], T], *, rungs: Sequence[str]) -> T:
        """Return what `work` returns, which is called again after each rung taken.

        Args:
            work: A part of the job; each call does the same from its start.
            rungs: Those that can help it, from the top down.

        Raises:
            RowError: OUT_OF_MEMORY, with the rungs tried, the peak and the free memory.
        """
        while True:
            try:
                with memory_errors(self._what):
                    return work()
            except RowError as error:
                if error.code is not ErrorCode.OUT_OF_MEMORY:
                    raise
                letter, figures = str(error), self._figures()
            # Only here is the error gone, and with it the tensors that its traceback held.
            untaken = (rung for rung in rungs if rung not in self.taken)
            rung = next((rung for rung in untaken if self._take(rung)), None)
            if rung is not None:
                logger.warning("%s. %s. Trying again with %s.", self._what, figures, rung)
                self.taken += (rung,)
            release_memory(self._device)
            if rung is None:
                tried = ", ".join(self.taken) or "nothing, as there was nothing left to try"
                raise RowError(ErrorCode.OUT_OF_MEMORY, f"{letter} Tried: {tried}. {figures}.")

    def _figures(self) -> str:
        peak = readable_bytes(peak_memory_bytes(self._device))
        free, total = map(readable_bytes, free_memory_bytes(self._device))
        return f"Peak memory {peak}; {free} of {total} free on {self._device}"


def bytes_of(tensor: torch.Tensor) -> int:
    """Return the size of a tensor's numbers."""
    return tensor.numel() * tensor.element_size()


def readable_bytes(count: int) -> str:
    """Return a number of bytes for people, as in "31.4 GiB"."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
