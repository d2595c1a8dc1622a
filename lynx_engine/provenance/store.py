"""Keeps the log: immutable parquet parts, each named by its own digest, each forced to disk.

One writer, under the campaign's lock; readers in any process at any time. A damaged, missing or
foreign file is named, never skipped. A row is its run, job, attempt, status and end: files may
hold it twice while they are folded, readers see it once.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.digest import digest_bytes
from lynx_engine.errors import DamagedError, Problem
from lynx_engine.provenance.files import (
    DIGEST_CHARACTERS,
    FOLDED,
    LogFiles,
    append_to_index,
    read_files,
    remove_temp,
    sync_folder,
    write_durably,
    write_temp,
)
from lynx_engine.provenance.schema import ProvenanceRecord, record_columns
from lynx_engine.provenance.upgrade import ForeignSchemaError, is_current, upgraded

if TYPE_CHECKING:
    from datetime import datetime

    import polars as pl

    from lynx_engine.settings import Settings

__all__ = [
    "DAMAGE_ADVICE",
    "FOLDER",
    "ROW",
    "PreparedPart",
    "damage_headline",
    "decode",
    "encode",
    "prepare_part",
    "read_log",
    "read_parts",
    "records_of",
    "stamp_of",
    "sync_folder",
    "write_durably",
    "write_part",
]

FOLDER = "provenance"
DAMAGE_ADVICE = (
    "Move each out of the folder, and the file `index` with them; a row whose record is gone "
    "renders again."
)
ROW = ("run_id", "job_id", "attempt", "status", "finished_at")
"""The columns that tell two records apart."""

_COLUMNS = tuple(f.name for f in fields(ProvenanceRecord))
_VALUES = attrgetter(*_COLUMNS)


@dataclass(frozen=True, slots=True)
class PreparedPart:
    """A record that is on disk but not yet in the log; made by `prepare_part`.

    Attributes:
        temp: Where it lies now.
        path: Where it will lie.
    """

    temp: Path
    path: Path

    def commit(self) -> Path:
        """Put the record in the log: rename, fsync of the folder, one line in the index.

        Returns:
            The part.

        Raises:
            OSError: If the disk refuses; the part may be in place already, whole.
        """
        self.temp.replace(self.path)
        sync_folder(self.path.parent)
        append_to_index(self.path.parent, self.path.name)
        return self.path

    def discard(self) -> None:
        """Forget the record; nothing happens if it was committed."""
        remove_temp(self.temp)


def prepare_part(folder: Path, record: ProvenanceRecord) -> PreparedPart:
    """Force one record to disk under a name that readers pass over.

    What can fail for want of room has then been done, before the clip gets its name.

    Args:
        folder: The log's folder, made if need be.
        record: What to keep.

    Raises:
        OSError: If the disk refuses; no file is left then.
    """
    import polars as pl

    folder.mkdir(parents=True, exist_ok=True)
    data = encode(pl.DataFrame([_VALUES(record)], schema=_schema(), orient="row"), packed=False)
    stem = f"part-{stamp_of(record.finished_at)}-{record.job_id[:12]}-a{record.attempt}"
    path = folder / f"{stem}-{digest_bytes(data)[:DIGEST_CHARACTERS]}.parquet"
    return PreparedPart(write_temp(path, data), path)


def write_part(folder: Path, record: ProvenanceRecord) -> Path:
    """Store one record durably: temp file, fsync, rename, fsync of the folder.

    Args:
        folder: The log's folder, made if need be.
        record: What to keep.

    Returns:
        The part.

    Raises:
        OSError: If the disk refuses; no temp file is left then.
    """
    part = prepare_part(folder, record)
    try:
        return part.commit()
    except BaseException:
        part.discard()
        raise


def stamp_of(moment: datetime) -> str:
    """Return a UTC time as file names hold it, to the microsecond: `20261122T120000250000Z`."""
    return f"{moment:%Y%m%dT%H%M%S%f}Z"


def encode(frame: pl.DataFrame, *, packed: bool) -> bytes:
    """Return records as parquet, compressed if `packed`: one row is smaller and faster without."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd" if packed else "uncompressed", statistics=False)
    return buffer.getvalue()


@cache
def _schema() -> pl.Schema:
    import polars as pl

    return pl.Schema(record_columns())


def read_log(campaign: str, *, settings: Settings | None = None) -> pl.DataFrame:
    """Return a campaign's records, one row an attempt, oldest first; empty if it never ran.

    Args:
        campaign: Its name.
        settings: Folders; those of the current workspace by default.

    Raises:
        DamagedError: If any file of the log is damaged, missing or foreign; every one is named.
    """
    from lynx_engine.settings import load_settings

    settings = settings or load_settings()
    return read_parts(settings.campaign_dir(campaign) / FOLDER)


def read_parts(folder: Path) -> pl.DataFrame:
    """Return the records of one folder; see `read_log`.

    Args:
        folder: The log's folder; one that is not there is an empty log.

    Raises:
        DamagedError: As `read_log`.
    """
    return records_of(folder, read_files(folder))


def records_of(folder: Path, files: LogFiles) -> pl.DataFrame:
    """Return the records that a log's files hold, each once, oldest first.

    Args:
        folder: Where the files lie, for messages.
        files: All of them.

    Raises:
        DamagedError: As `read_log`.
    """
    import polars as pl

    problems = list(files.problems)
    folded = {name: data for name, data in files.contents.items() if FOLDED.fullmatch(name)}
    parts = {name: data for name, data in files.contents.items() if name not in folded}
    frames = [pl.DataFrame(schema=_schema())]
    together = _decode_together(list(parts.values()))
    for name, data in (folded if together is not None else files.contents).items():
        frame = decode(folder / name, data)
        if isinstance(frame, Problem):
            problems.append(frame)
        else:
            frames.append(frame)
    if problems:
        raise DamagedError(damage_headline(problems), problems, DAMAGE_ADVICE)
    log = pl.concat([*frames, *([] if together is None else [together])])
    if folded and len(files.contents) > 1:
        log = log.unique(ROW, keep="first", maintain_order=True)
    ends = log["finished_at"]
    if ends.is_sorted() and ends.n_unique() == len(ends):
        return log  # as a folded log is: sorting 100,000 wide rows takes 0.3 s
    return log.sort("finished_at", "job_id", "attempt", maintain_order=True)


def _decode_together(parts: list[bytes]) -> pl.DataFrame | None:
    """Return the rows of many parts, or None if any needs a look of its own.

    One call for a thousand parts takes a third of the time of a thousand calls.
    """
    import polars as pl

    if not parts:
        return pl.DataFrame(schema=_schema())
    try:
        frame = pl.read_parquet(parts)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return None
    return frame if is_current(frame) else None


def decode(path: Path, data: bytes) -> pl.DataFrame | Problem:
    """Return the records of one whole file, or why this program cannot read them.

    Args:
        path: Where it lies, for the message.
        data: Its bytes, whose digest is right.
    """
    import polars as pl

    try:
        frame = pl.read_parquet(data)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return Problem(str(path), "not a part of the log; it is no parquet.")
    try:
        return frame if is_current(frame) else upgraded(frame)
    except ForeignSchemaError as error:
        return Problem(str(path), str(error))
    except pl.exceptions.PolarsError as error:
        return Problem(str(path), f"cannot be upgraded to this version's columns: {error}")


def damage_headline(problems: Sequence[Problem]) -> str:
    """Return the first line of a letter about damaged logs."""
    files = f"file{'s' * (len(problems) > 1)}"
    return f"{len(problems)} damaged, missing or foreign {files} in the log"
