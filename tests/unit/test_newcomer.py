"""What a first hour may bring: a proxy, a narrow umask, a Python that makes no environments."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.server import _reach_without_proxy  # pyright: ignore[reportPrivateUsage]
from lynx_engine.cli import init
from lynx_engine.cli.app import app

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("", "127.0.0.1"), ("studio.example", "studio.example,127.0.0.1"), ("*", "*")],
)
def test_own_server_is_left_out_of_the_proxy_and_others_stay_as_they_were(
    given: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", given)
    monkeypatch.setenv("NO_PROXY", given)
    _reach_without_proxy()
    assert (os.environ["no_proxy"], os.environ["NO_PROXY"]) == (kept, kept)


def test_folders_of_a_new_workspace_have_the_modes_of_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed"
    shutil.copytree(ROOT / "manifests", installed)
    folders = [installed, *(path for path in installed.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    monkeypatch.setattr(init, "_examples", lambda: installed)
    umask = os.umask(0o077)
    try:
        done = CliRunner().invoke(app, ["init", str(tmp_path / "studio")])
    finally:
        os.umask(umask)
        for folder in folders:
            folder.chmod(0o755)
    assert done.exit_code == 0, done.output
    made = tmp_path / "studio" / "manifests"
    modes = {path: path.stat().st_mode & 0o777 for path in (made, *made.rglob("*"))}
    assert len(modes) > len(folders) > 1
    assert modes == {path: 0o700 if path.is_dir() else 0o600 for path in modes}


def _make(folder: Path, python: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "-f", str(ROOT / "Makefile"), f"PYTHON={python}", ".venv/bin/pip"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def _script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def test_make_says_what_a_python_without_venv_lacks(tmp_path: Path) -> None:
    python = _script(tmp_path / "my python", "exit 1")
    done = _make(tmp_path, python)
    assert done.returncode == 2
    assert "apt-get install python3-venv" in done.stdout
    assert str(python) in done.stdout


def test_make_makes_a_half_made_environment_anew_and_leaves_a_whole_one(tmp_path: Path) -> None:
    python = _script(tmp_path / "python", 'echo "$@" >> calls', "touch .venv/bin/pip")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()  # as an interrupted first run leaves it
    for _ in range(2):
        assert _make(tmp_path, python).returncode == 0
    assert (tmp_path / "calls").read_text() == "-m venv --clear .venv\n"
