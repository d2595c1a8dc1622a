"""Lets Python's cycle collector rest while very many values are made; it knows none of them."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Generator[None]:
    """Make values that hold no cycle without the collector's walks over all made so far.

    They find nothing and cost a quarter of the time of planning 100,000 rows. Memory is given back
    all the same, by counting references.
    """
    was_at_work = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_at_work:
            gc.enable()
