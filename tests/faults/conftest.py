"""Figures of the fault tests, told at the end of the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Tell a line of figures; `tests/conftest.py` prints them in the summary."""
    return lambda line: record_property("figure", line)
