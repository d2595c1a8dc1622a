"""Runs the installed command as a user does: its own folder, environment and exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import typer

COMMAND = Path(sys.executable).parent / "lynx-engine"
TIMEOUT_S = 240


@dataclass(frozen=True)
class Workspace:
    """A folder to work in, and the variables that make it independent of the tester's home."""

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LYNX_", "PREFECT_"))}
        return {**kept, **self.variables}

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment(), **variables},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def json(self, *arguments: str | Path) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def clips(self, campaign: str) -> list[Path]:
        return sorted((self.folder / "outputs" / campaign / "clips").glob("*.mp4"))

    def parts(self, campaign: str) -> list[Path]:
        """The parquet files of the log: one, once a run has ended and folded it."""
        return sorted((self.folder / "outputs" / campaign / "provenance").glob("*.parquet"))

    def write(self, name: str, lines: str | Sequence[str]) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines if isinstance(lines, str) else "\n".join(lines), encoding="utf-8")
        return path


def run_here(
    app: typer.Typer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *arguments: str,
) -> str:
    """Run a command in this process, in `folder`; return what it wrote to stdout.

    Faster than a process of its own; errors are raised.
    """
    monkeypatch.chdir(folder)
    capsys.readouterr()
    app(list(arguments), standalone_mode=False)
    return capsys.readouterr().out
