"""Runs commands and opens photos one after the other in a process of its own, and measures each.

    python -m tests.fuzz.child FOLDER [--mutant NAME]

Reads a JSON line for each task from stdin: `{"command": ["check", "m.yaml"]}` or `{"photo": path}`,
and answers with one on stdout. A crash of this process is a crash of what it ran.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

MEMORY_LIMIT = 4 << 30
"""Address space in bytes, against a runaway; the promised limit is held against what was used."""


def lose_rules() -> None:
    """Tell problems without the rule that was broken."""
    from lynx_engine.errors import Problem

    Problem.__str__ = lambda self: f"{self.where}: {self.text}"


def let_text_through() -> None:
    """Take whatever a file says for text."""
    from lynx_engine.manifest import table_rows

    table_rows.read_manifest_text = lambda path: path.read_text(encoding="utf-8")


def lift_photo_limits() -> None:
    """Take away the limit on a photo's pixels."""
    from lynx_engine.media import images

    images.MAX_PIXELS = 10**12


MUTANTS = {"rules": lose_rules, "encoding": let_text_through, "photo-limits": lift_photo_limits}


def reset_peak() -> None:
    """Let the kernel count this process's largest memory anew, where it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_mb() -> float:
    """Return the most memory this process held since `reset_peak`, in MB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_command(arguments: list[str]) -> dict[str, Any]:
    """Run the command line as the installed program does, its output kept."""
    from lynx_engine.cli.app import main

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    code: object = 0
    sys.argv = ["lynx-engine", *arguments]
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    told = []
    for stream in (out, err):
        stream.flush()
        told.append(stream.buffer.getvalue().decode("utf-8", "replace"))  # type: ignore[attr-defined]
    return {"code": code or 0, "out": told[0], "err": told[1]}


def open_photo(path: Path) -> dict[str, Any]:
    """Look at a photo as planning and rendering do."""
    from lynx_engine.errors import RowError
    from lynx_engine.media.images import inspect_photo, read_photo

    try:
        inspect_photo(path)
        shape = read_photo(path).shape
    except RowError as error:
        return {"code": 2, "out": "", "err": str(error)}
    except Exception as error:  # noqa: BLE001  # what the fuzzing is there to find
        return {"code": 3, "out": "", "err": f"{type(error).__name__}: {error}"}
    return {"code": 0, "out": str(shape), "err": ""}


def answer(task: Mapping[str, Any]) -> dict[str, Any]:
    """Do one task and measure it."""
    reset_peak()
    began = time.process_time()
    told = run_command(task["command"]) if "command" in task else open_photo(Path(task["photo"]))
    return {**told, "cpu_s": time.process_time() - began, "peak_mb": peak_mb()}


def main() -> None:
    """Answer until stdin ends."""
    os.chdir(sys.argv[1])
    for name in sys.argv[3:]:
        MUTANTS[name]()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        replies.write(json.dumps(answer(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
