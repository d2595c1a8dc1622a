"""Workspaces for the end-to-end tests; the tiny weights are made once a session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.jobs import astronaut
from tests.support.workspaces import Workspace


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def workspace(tmp_path: Path, cache: Path) -> Workspace:
    """An empty workspace with the photo in it."""
    (tmp_path / "lynx.toml").touch()
    shutil.copyfile(astronaut(), tmp_path / "one.png")
    return Workspace(tmp_path, {"LYNX_CACHE": str(cache)})
