"""Takes answers of the log elsewhere: CSV that no spreadsheet executes, JSON, parquet."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lynx_engine.errors import Problem, RefusedError
from lynx_engine.provenance.files import INDEX, digest_in, write_durably

if TYPE_CHECKING:
    import polars as pl

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet may take for a formula (OWASP, CSV Injection), full-width forms too."""


def as_csv(frame: pl.DataFrame) -> bytes:
    """Return records as CSV (RFC 4180, UTF-8) that is safe to open in a spreadsheet.

    Every text is quoted, so that none spills into the next cell whatever the separator is; one
    that begins like a formula gets an apostrophe before it. Numbers stay numbers, and what is
    missing is an empty cell. JSON and parquet keep the exact texts.
    """
    import polars as pl

    numbers = {name for name, kind in frame.schema.items() if kind.is_numeric()}
    cells = frame.select(
        pl.col(name) if name in numbers else _harmless(_as_text(frame[name]))
        for name in frame.columns
    )
    names = pl.DataFrame({"name": frame.columns}, schema={"name": pl.String})
    cells.columns = names.select(_harmless(names["name"]))["name"].to_list()
    buffer = io.BytesIO()
    cells.write_csv(buffer, quote_style="non_numeric")
    return buffer.getvalue()


def _harmless(texts: pl.Series) -> pl.Expr:
    import polars as pl

    is_formula = pl.lit(False)
    for start in FORMULA_STARTS:
        is_formula |= pl.lit(texts).str.starts_with(start)
    quoted = pl.concat_str(pl.lit("'"), pl.lit(texts))
    return pl.when(is_formula).then(quoted).otherwise(pl.lit(texts)).alias(texts.name)


def _as_text(values: pl.Series) -> pl.Series:
    import polars as pl

    if isinstance(values.dtype, pl.Datetime):
        return values.dt.to_string("iso:strict")
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        told = (None if v is None else json.dumps(v, default=str) for v in values.to_list())
        return pl.Series(values.name, list(told), pl.String)
    return values.cast(pl.String)


def as_rows(frame: pl.DataFrame) -> list[dict[str, object]]:
    """Return records as JSON can hold them: a number that is none, or endless, is null."""
    rows = frame.to_dicts()
    loose = [n for n, kind in frame.schema.items() if kind.is_float() or kind.is_nested()]
    for row in rows:
        for name in loose:
            row[name] = _finite(row[name])
    return rows


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast("dict[str, object]", value).items()}
    return value


def as_parquet(frame: pl.DataFrame) -> bytes:
    """Return records as one parquet file."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def check_place(path: Path, *, option: str) -> None:
    """Refuse to write an export where it could not lie, or would be taken for a part of the log.

    Raises:
        RefusedError: With what stands in its place.
    """
    fault = ""
    if not path.parent.is_dir():
        fault = "its folder is not there; make it, or name another"
    elif path.exists() and not path.is_file():
        fault = "something that is no file stands there; name another"
    elif path.is_symlink():
        fault = "a link stands there; name the file itself"
    elif (path.parent / INDEX).is_file() or any(map(_is_of_log, path.parent.glob("*.parquet"))):
        fault = "that folder is a log, and a foreign file in it is damage; name another"
    if fault:
        raise RefusedError([Problem(f"{option} {path}", fault)], outcome="nothing was written")


def _is_of_log(path: Path) -> bool:
    return digest_in(path.name) is not None


def write_export(path: Path, data: bytes) -> None:
    """Write an export, whole or not at all; a file that is there is replaced.

    Raises:
        OSError: If the disk refuses.
    """
    write_durably(path, data)
