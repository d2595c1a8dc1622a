"""Bounded memory for results worth keeping between jobs. It knows sizes, not meanings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

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
