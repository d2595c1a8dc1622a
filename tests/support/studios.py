"""A workspace whose sources of weights are a stand-in on this machine."""

from __future__ import annotations

from pathlib import Path

from tests.support.hub import Hub
from tests.support.workspaces import Workspace


def studio_at(hub: Hub, folder: Path) -> Workspace:
    """Return a workspace in `folder` that knows no network but `hub`."""
    return Workspace(
        folder,
        {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "hf"),
            "LYNX_GITHUB": hub.url,
            "LYNX_CACHE": str(folder / "cache"),
            "NO_PROXY": "*",
        },
    )
