"""Finds campaigns and records for the commands that look back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import Problem, RefusedError, nearest

if TYPE_CHECKING:
    import polars as pl

    from lynx_engine.settings import Settings

MANIFEST_SUFFIXES = frozenset({".yaml", ".yml", ".csv", ".jsonl"})


def campaigns_of(settings: Settings) -> list[str]:
    """Return the campaigns in the outputs folder, by name."""
    from lynx_engine.provenance.store import FOLDER

    return sorted(path.parent.name for path in settings.outputs_dir.glob(f"*/{FOLDER}"))


def campaign_named(given: str, settings: Settings) -> str:
    """Return the campaign a person means by its name or by its manifest.

    Raises:
        RefusedError: If it has never been rendered here.
    """
    name = given
    if Path(given).suffix in MANIFEST_SUFFIXES:
        from lynx_engine.manifest.read import read_manifest

        name = read_manifest(given, lenient=True).campaign
    known = campaigns_of(settings)
    if name not in known:
        text = f"no campaign of that name in {settings.outputs_dir}{nearest(name, known)}"
        raise RefusedError([Problem(given, text)], outcome="nothing to show")
    return name


def all_records(settings: Settings) -> pl.DataFrame:
    """Return the records of every campaign in the outputs folder.

    Raises:
        DamagedError: If any log is damaged.
    """
    import polars as pl

    from lynx_engine.provenance.schema import record_columns
    from lynx_engine.provenance.store import read_log

    logs = (read_log(name, settings=settings) for name in campaigns_of(settings))
    return pl.concat([pl.DataFrame(schema=record_columns()), *logs])
