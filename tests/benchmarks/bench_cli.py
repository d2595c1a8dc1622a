"""P11: how long the command line takes to say something, from a cold interpreter.

    python -m tests.benchmarks.bench_cli [--quick]

Prints a table, and one JSON line last.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.figures import is_quick, tell
from tests.support.jobs import astronaut
from tests.support.workspaces import Workspace

ROWS = 100
ROUNDS = 7


def write_manifest(workspace: Workspace) -> Path:
    """Return a CSV manifest of 100 rows with one subject."""
    lines = ["subject,image,consent_basis,prompt,seed,variant"]
    lines += [
        f'astronaut,astronaut.png,public-domain,"A walk on the beach, take {n}.",{n},tiny'
        for n in range(ROWS)
    ]
    (workspace.folder / "astronaut.png").write_bytes(astronaut().read_bytes())
    return workspace.write("hundred.csv", lines)


def seconds_of(workspace: Workspace, *arguments: str | Path) -> float:
    """Return how long one command takes, its start and end included."""
    started = time.perf_counter()
    done = workspace.run(*arguments)
    took_s = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    return took_s


def measure(rounds: int) -> dict[str, float]:
    """Return the medians of both commands, which take turns."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        manifest = write_manifest(workspace)
        told = workspace.run("check", manifest).stdout
        assert f"{ROWS} rows" in told, told
        taken: dict[str, list[float]] = {"P11_help_s": [], "P11_check_s": []}
        for _ in range(rounds):
            taken["P11_help_s"].append(seconds_of(workspace, "--help"))
            taken["P11_check_s"].append(seconds_of(workspace, "check", manifest))
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> int:
    """Measure and tell."""
    return tell(measure(1 if is_quick() else ROUNDS))


if __name__ == "__main__":
    sys.exit(main())
