"""`lynx-engine check`: every problem of a manifest, and nothing else."""

from __future__ import annotations

import shlex
from dataclasses import replace

from lynx_engine.cli.options import (
    JsonOption,
    ManifestArgument,
    ModelsOption,
    QuietOption,
    models_flags,
)

EXAMPLE = "Example: lynx-engine check manifests/quickstart.yaml"


def command(
    manifest: ManifestArgument,
    quiet: QuietOption = False,
    models: ModelsOption = None,
    json: JsonOption = False,
) -> None:
    """Read a manifest and the headers of its photos; list every problem at once.

    Faces and weights are looked at by `render`: a manifest can be written where neither is.
    """
    from lynx_engine.cli.console import note, say, say_json
    from lynx_engine.manifest.read import read_manifest
    from lynx_engine.planning import plan_renders
    from lynx_engine.settings import load_settings
    from lynx_engine.survey import gather_facts
    from lynx_engine.variants import REGISTRY

    read = read_manifest(manifest, lenient=True)
    facts = gather_facts(read, load_settings(manifest, **models_flags(models)))
    unchecked = dict.fromkeys(REGISTRY, "unchecked")
    plan = plan_renders(read, replace(facts, weights=unchecked, weights_problems={}))
    rows = len(plan.to_run) + len(plan.done) + len(plan.held)
    for warning in plan.warnings:
        note(str(warning))
    if json:
        warnings = [warning.as_json() for warning in plan.warnings]
        say_json({"campaign": read.campaign, "rows": rows, "problems": [], "warnings": warnings})
    elif not quiet:
        name = shlex.quote(str(manifest))
        say(f"{manifest}: {rows} rows, no problems. `lynx-engine plan {name}` says what runs.")
