"""Runs every benchmark that suits a CPU, one after the other, and sums up: `make bench`.

    python -m tests.benchmarks [--quick] [bench_cli ...]

Each is a module `bench_*.py` whose last line of output is a JSON object of its figures. With
`--quick` each only shows that it runs, and no figure is held to its target.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.benchmarks.figures import is_missed, is_quick, table

NEEDS_A_GPU = frozenset({"bench_gpu"})


def find_benchmarks() -> list[str]:
    """Return the modules that measure something without a GPU, by name."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    return [name for name in found if name not in NEEDS_A_GPU]


def run_benchmark(name: str) -> tuple[Mapping[str, float], bool]:
    """Run one benchmark in a process of its own, so that none leaves another its threads.

    Returns:
        The figures of its last line, and whether it came to its end.
    """
    options = ["--quick"] if is_quick() else []
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *options]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            last = line.strip() or last
    try:
        told = json.loads(last)
    except ValueError:
        return {}, False
    if not isinstance(told, dict):
        return {}, False
    numbers = {key: value for key, value in told.items() if isinstance(value, int | float)}
    # Status 1 says that a figure was missed, which the table tells too.
    return numbers, process.returncode in {0, 1}


def main() -> int:
    """Run all of them, or those named; return 1 if one broke or missed its target."""
    figures: dict[str, float] = {}
    broken: list[str] = []
    named = [word for word in sys.argv[1:] if not word.startswith("-")]
    for name in named or find_benchmarks():
        sys.stdout.write(f"\n== {name}\n")
        sys.stdout.flush()
        told, ended = run_benchmark(name)
        figures |= told
        if not ended:
            broken.append(name)
    missed = [name for name, value in figures.items() if is_missed(name, value)]
    sys.stdout.write(f"\n== all figures\n{table(figures)}\n")
    sys.stdout.writelines(f"BROKEN {name}\n" for name in broken)
    sys.stdout.write(json.dumps(figures) + "\n")
    return int(bool(broken or (missed and not is_quick())))


if __name__ == "__main__":
    sys.exit(main())
