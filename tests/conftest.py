"""Settings every test shares."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# Two threads on two contended cores are slower than one, and rows of a matrix product are then
# summed in another order.
torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background deaf to Ctrl-C, and its children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


QUICK = ("unit", "contract", "parity")
"""Folders of tests that take moments each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every process begin with its share of the slow modules: quick tests level out the end.

    xdist gives each process one stretch of the list, and lets whoever is done take from the end of
    another's.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    here = Path(__file__).parent
    modules: dict[Path, list[pytest.Item]] = {}
    quick: deque[pytest.Item] = deque()
    for item in items:
        if item.path.relative_to(here).parts[0] in QUICK:
            quick.append(item)
        else:
            modules.setdefault(item.path, []).append(item)
    stretch = -(-len(items) // processes)
    ordered: list[pytest.Item] = []
    for number in range(processes):
        for module in list(modules.values())[number::processes]:
            ordered += module
        while quick and len(ordered) < stretch * (number + 1):
            ordered.append(quick.popleft())
    items[:] = [*ordered, *quick]


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Tell a line of figures, which is printed in the summary."""
    return lambda line: record_property("figure", line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests told, whichever process they ran in."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "figure" and report.when == "call":
                    terminalreporter.write_line(str(value))
