"""Reads logs that other versions of this program wrote: the rule for columns, and each step since.

The rule: a column is only ever added, with a default that says "not known"; the schema version
stays, and older records read as if they held that default. A column whose meaning changes, or that
goes, makes a new version and one function here, from the version before it to the new one. Files
are never rewritten for it: records are upgraded as they are read, and folding writes them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lynx_engine.provenance.schema import SCHEMA_VERSION, column_defaults, record_columns

if TYPE_CHECKING:
    import polars as pl

Upgrade = Callable[["pl.DataFrame"], "pl.DataFrame"]

UPGRADES: dict[int, Upgrade] = {}
"""Schema version -> what makes its records those of the next version, `schema_version` aside."""


class ForeignSchemaError(Exception):
    """Records that this program cannot read; says why, and what to do."""


def upgraded(frame: pl.DataFrame) -> pl.DataFrame:
    """Return records of any known version as those of this one, all columns in order.

    Args:
        frame: The records of one file.

    Raises:
        ForeignSchemaError: If a newer lynx_engine wrote them, or they are no records of ours.
    """
    import polars as pl

    schema = record_columns()
    version = _version_of(frame)
    while version < SCHEMA_VERSION:
        if version not in UPGRADES:
            raise ForeignSchemaError(
                f"written with schema version {version}, which this program cannot upgrade."
            )
        frame = UPGRADES[version](frame)
        version += 1
        frame = frame.with_columns(schema_version=pl.lit(version, pl.Int64))
    frame = _with_later_columns(_with_subject_seconds(frame), schema)
    _check_columns(frame, schema)
    return frame.select(list(schema))


def is_current(frame: pl.DataFrame) -> bool:
    """Whether records are this version's as they are: no column is missing, none is foreign."""
    # As lists: two mappings are equal in whatever order.
    same = list(frame.schema.items()) == list(record_columns().items())
    return same and bool((frame["schema_version"] == SCHEMA_VERSION).all())


def _version_of(frame: pl.DataFrame) -> int:
    if "schema_version" not in frame.columns or not frame["schema_version"].dtype.is_integer():
        raise ForeignSchemaError("no records of lynx_engine: it has no schema_version.")
    versions = frame["schema_version"].unique().to_list()
    if None in versions or len(versions) > 1:
        raise ForeignSchemaError(f"written with several schema versions: {versions}.")
    version = versions[0] if versions else SCHEMA_VERSION
    if version > SCHEMA_VERSION:
        raise _newer(frame, f"written with schema version {version}")
    return version


def _newer(frame: pl.DataFrame, what: str) -> ForeignSchemaError:
    writer = frame["engine_version"].max() if "engine_version" in frame.columns else None
    by = f" by lynx_engine {writer}" if isinstance(writer, str) else ""
    return ForeignSchemaError(
        f"{what}{by}; this program reads version {SCHEMA_VERSION}. Upgrade lynx_engine."
    )


def _with_subject_seconds(frame: pl.DataFrame) -> pl.DataFrame:
    """Join what the very first records, older than the rule, told apart: `subject_s` is its sum."""
    import polars as pl

    first = ("identity_s", "reference_s")
    if "subject_s" in frame.columns or not set(first) <= set(frame.columns):
        return frame
    return frame.with_columns(subject_s=pl.sum_horizontal(first)).drop(first)


def _with_later_columns(frame: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Give records written before a column came the value that says it was not known."""
    import polars as pl

    return frame.with_columns(
        pl.lit(default, dtype=schema[column]).alias(column)
        for column, default in column_defaults().items()
        if column not in frame.columns
    )


def _check_columns(frame: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> None:
    unknown = [name for name in frame.columns if name not in schema]
    if unknown:
        raise _newer(frame, f"written with columns unknown here ({', '.join(unknown)})")
    missing = [name for name in schema if name not in frame.columns]
    if missing:
        raise ForeignSchemaError(f"no records of lynx_engine: without {', '.join(missing)}.")
    other = [name for name, kind in schema.items() if frame.schema[name] != kind]
    if other:
        raise ForeignSchemaError(
            f"no records of lynx_engine: columns of another type: {', '.join(other)}."
        )
