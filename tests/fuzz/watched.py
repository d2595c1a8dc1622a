"""A child process that is handed input after input, watched from outside."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
SOUND = "subject,image,synthetic,prompt,variant\nhost,one.png,true,A person waves.,tiny\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one input.

    Attributes:
        code: The exit code; -1 if the process died, -2 if it did not answer in time.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
        cpu_s: Processor seconds it took.
        peak_mb: The most memory the process held meanwhile.
    """

    code: int
    out: str = ""
    err: str = ""
    cpu_s: float = 0.0
    peak_mb: float = 0.0


@dataclass
class Watched:
    """A child that does tasks; one that dies or hangs is told as such and replaced."""

    folder: Path
    mutants: tuple[str, ...] = ()
    _process: subprocess.Popen[str] | None = field(default=None, init=False)

    def command(self, *arguments: str) -> Reply:
        """Run a command line in the child's folder."""
        return self._ask({"command": list(arguments)})

    def photo(self, path: Path) -> Reply:
        """Open a photo."""
        return self._ask({"photo": str(path)})

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, task: Mapping[str, Any]) -> Reply:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], PATIENCE_S)[0]:
            self.close()
            return Reply(-2)
        line = process.stdout.readline()
        if not line:
            self.close()
            return Reply(-1)
        return Reply(**json.loads(line))

    def _start(self) -> subprocess.Popen[str]:
        options = ["--mutant", *self.mutants] if self.mutants else []
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.fuzz.child", str(self.folder), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=_environment(),
        )
        # What is loaded and asked once a process is no input's doing.
        (self.folder / "sound.csv").write_text(SOUND, encoding="utf-8")
        told = self.command("check", "sound.csv")
        if told.code != 0 or self._process is None:
            raise RuntimeError(f"the child cannot check a sound manifest: {told}")
        return self._process


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LYNX_", "PREFECT_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "TMPDIR": tempfile.gettempdir()}


@contextmanager
def watched(folder: Path, *mutants: str) -> Generator[Watched]:
    """Give a child that works in `folder`, without the safeguards named."""
    child = Watched(folder, mutants)
    try:
        yield child
    finally:
        child.close()
