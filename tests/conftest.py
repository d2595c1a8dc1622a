"""Settings every test shares."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

# Two threads on two contended cores are slower than one, and rows of a matrix product are then
# summed in another order.
torch.set_num_threads(1)


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
