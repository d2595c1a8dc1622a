"""`lynx-engine variants`: what can be rendered, and whether its weights are here."""

from __future__ import annotations

from dataclasses import asdict

from lynx_engine.cli.options import JsonOption, ModelsOption, models_flags

EXAMPLE = "Example: lynx-engine variants --json"


def command(models: ModelsOption = None, json: JsonOption = False) -> None:
    """List the variants with their defaults and their weights."""
    from lynx_engine.cli.console import say, say_json, show_table
    from lynx_engine.errors import RowError
    from lynx_engine.settings import load_settings
    from lynx_engine.variants import all_variants, check_entries
    from lynx_engine.weights.fingerprint import weights_fingerprint

    settings = load_settings(**models_flags(models))
    check_entries(settings.model_paths)
    models_dir = settings.models_dir
    missing: dict[str, str] = {}
    for spec in all_variants().values():
        try:
            weights_fingerprint(spec, models_dir)
        except RowError as error:
            missing[spec.name] = str(error)
    if json:
        say_json(
            [
                {**asdict(spec), "branches": spec.branches, "missing": missing.get(spec.name, "")}
                for spec in all_variants().values()
            ]
        )
        return
    rows = (
        (
            spec.name,
            spec.summary,
            f"{spec.defaults.size}, {spec.defaults.frames} frames, {spec.defaults.fps} fps, "
            f"{spec.defaults.steps} steps",
            "made here" if spec.builder else ("missing" if spec.name in missing else "present"),
        )
        for spec in all_variants().values()
    )
    show_table("", ("variant", "what", "defaults", "weights"), rows)
    if missing:
        say(
            f"Missing weights belong below {models_dir} (LYNX_MODELS chooses another folder); "
            "`lynx-engine models pull VARIANT` fetches them."
        )
