"""Tells how many branches the tests take in each module that needs no torch: `make coverage`.

    python -m tests.branch_coverage coverage.json [least percentage]

A module needs no torch if none of its import statements, wherever it stands, names torch or what
is built on it. Exits 1 if these modules together fall short.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

HEAVY = frozenset({"torch", "diffusers", "transformers", "safetensors", "accelerate"})


def needs_torch(source: str) -> bool:
    """Return whether a module imports torch or what is built on it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return not HEAVY.isdisjoint(names)


def main(report: str, least: str = "90") -> int:
    """Print the modules, those that lack most branches first, and hold their sum to `least`."""
    files = json.loads(Path(report).read_text(encoding="utf-8"))["files"]
    rows: list[tuple[int, int, str]] = []
    for name, measured in files.items():
        summary = measured["summary"]
        if summary["num_branches"] and not needs_torch(Path(name).read_text(encoding="utf-8")):
            rows.append((summary["covered_branches"], summary["num_branches"], name))
    rows.sort(key=lambda row: row[0] - row[1])
    for taken, there, name in rows:
        if taken < there:
            sys.stdout.write(f"{taken:>5} of {there:<5}{taken / there:>6.0%}  {name}\n")
    taken, there = sum(row[0] for row in rows), sum(row[1] for row in rows)
    share = 100 * taken / max(there, 1)
    sys.stdout.write(f"branches without torch: {taken} of {there}, {share:.1f} %\n")
    return int(not rows or share < float(least))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
