"""Declarative batch renderer for personalised video: manifest in, clips and provenance out.

The public API is what the commands themselves call:

    manifest = read_manifest("manifests/quickstart.yaml")
    plan = plan_renders(manifest, gather_facts(manifest))
    summary = render(plan)
    records = read_log(plan.campaign)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flows.run import render
    from lynx_engine.manifest.read import read_manifest
    from lynx_engine.planning import plan_renders
    from lynx_engine.provenance.store import read_log
    from lynx_engine.survey import gather_facts

__all__ = ["__version__", "gather_facts", "plan_renders", "read_log", "read_manifest", "render"]

_HOMES = {
    "gather_facts": "lynx_engine.survey",
    "plan_renders": "lynx_engine.planning",
    "read_log": "lynx_engine.provenance.store",
    "read_manifest": "lynx_engine.manifest.read",
    "render": "flows.run",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `--help` loads nothing heavy."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'lynx_engine' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
