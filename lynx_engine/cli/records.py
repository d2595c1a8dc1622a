"""Finds campaigns and records for the commands that look back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import DamagedError, Problem, RefusedError, nearest

if TYPE_CHECKING:
    import polars as pl

    from lynx_engine.settings import Settings

MANIFEST_SUFFIXES = frozenset({".yaml", ".yml", ".csv", ".jsonl"})


def campaigns_of(settings: Settings) -> list[str]:
    """Return the campaigns in the outputs folder, by name."""
    from lynx_engine.provenance.store import FOLDER

    return sorted(path.parent.name for path in settings.outputs_dir.glob(f"*/{FOLDER}"))


def settings_for(given: str | None) -> Settings:
    """Return the settings of the workspace that a manifest or clip lies in, else of this one."""
    from lynx_engine.settings import load_settings

    return load_settings(Path(given) if given and Path(given).exists() else None)


def settings_of(workspace: Path) -> Settings:
    """Return the settings of a workspace that was named.

    Raises:
        RefusedError: If it is no folder, or its settings are wrong.
    """
    from lynx_engine.settings import load_settings

    if not workspace.is_dir():
        text = "is no folder; name the one that holds lynx.toml or outputs/"
        raise RefusedError([Problem(str(workspace), text)], outcome="nothing to show")
    return load_settings(workspace=workspace)


def campaign_named(given: str, settings: Settings, *, outcome: str = "nothing to show") -> str:
    """Return the campaign a person means by its name or by its manifest.

    Args:
        given: The name, or the path of the manifest.
        settings: Where to look.
        outcome: What did not happen if there is none, as `RefusedError` says it.

    Raises:
        RefusedError: If it has never been rendered here.
    """
    name = given
    if Path(given).suffix in MANIFEST_SUFFIXES:
        from lynx_engine.manifest.read import read_manifest

        name = read_manifest(given, lenient=True).campaign
    known = campaigns_of(settings)
    if name not in known:
        advice = nearest(name, known) or "; `lynx-engine status` lists those that are there"
        text = f"no campaign of that name in {settings.outputs_dir}{advice}"
        raise RefusedError([Problem(given, text)], outcome=outcome)
    return name


def read_logs(
    names: Sequence[str], settings: Settings
) -> tuple[dict[str, pl.DataFrame], DamagedError | None]:
    """Return the logs that are whole, by campaign, and what is wrong with the others.

    One damaged log does not hide the others; who reads them tells the damage at the end.
    """
    from lynx_engine.provenance.store import DAMAGE_ADVICE, damage_headline, read_log

    logs: dict[str, pl.DataFrame] = {}
    problems: list[Problem] = []
    for name in names:
        try:
            logs[name] = read_log(name, settings=settings)
        except DamagedError as error:
            problems += error.problems
    if not problems:
        return logs, None
    return logs, DamagedError(damage_headline(problems), problems, DAMAGE_ADVICE)
