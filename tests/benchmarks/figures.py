"""The figures to reach on a CPU, and how a benchmark tells of those it measured."""

from __future__ import annotations

import json
import operator
import os
import sys
from collections.abc import Callable, Mapping

TARGETS: Mapping[str, tuple[str, float]] = {
    "P1": (">=", 4.0),
    "P2": ("==", 1.0),
    "P2_most_loads": ("<=", 3.0),
    "P3": ("<=", 1.08),
    "P4": (">=", 1.0),
    "P6": ("<=", 0.01),
    "P7_idle_ms": ("<=", 10.0),
    **{
        f"P8_{name}": ("<=", most)
        for command in ("csv", "distinct", "matrix", "resume")
        for name, most in ((f"{command}_s", 2.0), (f"{command}_mb", 400.0))
    },
    "P8_rows_s": ("<=", 10.0),
    "P8_rows_mb": ("<=", 400.0),
    "P8_resume_10000_s": ("<=", 2.0),
    "scale_wait_ms": ("<=", 10.0),
    "scale_wait_last_tenth_ms": ("<=", 10.0),
    "P9_tiny_2_workers": (">=", 1.7),
    "P9_8_sleepers": (">=", 0.97),
    "P9_mixed_over_bound": ("<=", 1.05),
    "P10_resident": ("<=", 32.0),
    "P10_24": ("<=", 22.5),
    "P10_16": ("<=", 14.5),
    "P10_8": ("<=", 7.6),
    "P11_help_s": ("<=", 0.5),
    "P11_check_s": ("<=", 1.5),
}
"""Figure -> what it must be; a figure without a target is told for comparison."""

_HOLDS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
}


def is_missed(name: str, value: float) -> bool:
    """Whether a figure has a target and does not reach it."""
    if name not in TARGETS:
        return False
    relation, target = TARGETS[name]
    return not _HOLDS[relation](value, target)


def table(figures: Mapping[str, float]) -> str:
    """Return one line a figure: name, value, target, and how they compare."""
    lines: list[str] = []
    for name, value in figures.items():
        relation, target = TARGETS.get(name, ("", None))
        wanted = "" if target is None else f"{relation} {target:g}"
        verdict = "" if target is None else "MISSED" if is_missed(name, value) else "reached"
        lines.append(f"{name:<28}{value:>10.4g}  {wanted:<8}  {verdict}".rstrip())
    return "\n".join(lines)


def tell(figures: Mapping[str, float]) -> int:
    """Print the table and, as the last line, the figures as JSON; return the exit status."""
    rounded = {name: round(value, 4) for name, value in figures.items()}
    words = [table(rounded), f"{os.cpu_count()} cores", json.dumps(rounded)]
    sys.stdout.write("\n".join(words) + "\n")
    return int(any(is_missed(name, value) for name, value in rounded.items()))


def is_quick() -> bool:
    """Whether only to show that the benchmark runs: `--quick` stands on the command line."""
    return "--quick" in sys.argv[1:]
