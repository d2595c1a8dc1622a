"""Keeps the log: immutable parquet parts, each named by its own digest, each forced to disk.

Formats do not notice their own damage (one flipped bit goes unseen in 94 % of parquet files), so a
part's name carries the sha256 of its bytes. Parts are read by list and checked; a damaged or
foreign file is named, never skipped. Only the campaign writes here.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.digest import digest_bytes
from lynx_engine.errors import DamagedError, Problem
from lynx_engine.jobs import PastResult, RowKey, Status
from lynx_engine.provenance.schema import SCHEMA_VERSION, ProvenanceRecord, record_columns

if TYPE_CHECKING:
    import polars as pl

    from lynx_engine.settings import Settings

FOLDER = "provenance"
DAMAGE_ADVICE = "Move each out of the folder; a row whose record is gone renders again."
_PART = re.compile(r"part-[0-9]{8}T[0-9]{12}Z-[0-9a-f]{12}-a[0-9]+-([0-9a-f]{32})\.parquet")


def write_part(folder: Path, record: ProvenanceRecord) -> Path:
    """Store one record durably: temp file, fsync, rename, fsync of the folder.

    Raises:
        OSError: If the disk refuses; nothing but a dot-file is left then.
    """
    import polars as pl

    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    pl.DataFrame([asdict(record)], schema=record_columns()).write_parquet(buffer)
    data = buffer.getvalue()
    stamp = record.finished_at.strftime("%Y%m%dT%H%M%S%f")
    stem = f"part-{stamp}Z-{record.job_id[:12]}-a{record.attempt}"
    path = folder / f"{stem}-{digest_bytes(data)[:32]}.parquet"
    write_durably(path, data)
    return path


def write_durably(path: Path, data: bytes) -> None:
    """Create `path` with `data` so that it is there whole or not at all, whatever dies when.

    Raises:
        OSError: If the disk refuses.
    """
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_log(campaign: str, *, settings: Settings | None = None) -> pl.DataFrame:
    """Return a campaign's records, one row an attempt, oldest first; empty if it never ran.

    Raises:
        DamagedError: If any part is damaged or foreign; every such file is named.
    """
    from lynx_engine.settings import load_settings

    settings = settings or load_settings()
    return read_parts(settings.campaign_dir(campaign) / FOLDER)


def read_parts(folder: Path) -> pl.DataFrame:
    """Return the records of one folder; see `read_log`.

    Raises:
        DamagedError: As `read_log`.
    """
    import polars as pl

    frames: list[pl.DataFrame] = []
    problems: list[Problem] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith("."):
            continue  # a part whose writer died before the rename, or a file manager's own file
        part = _read_part(path)
        if isinstance(part, Problem):
            problems.append(part)
        else:
            frames.append(part)
    if problems:
        raise DamagedError(damage_headline(problems), problems, DAMAGE_ADVICE)
    empty = pl.DataFrame(schema=record_columns())
    return pl.concat([empty, *frames]).sort("finished_at", maintain_order=True)


def damage_headline(problems: Sequence[Problem]) -> str:
    """Return the first line of a letter about damaged logs."""
    return f"{len(problems)} damaged or foreign file{'s' * (len(problems) > 1)} in the log"


def _read_part(path: Path) -> pl.DataFrame | Problem:
    import polars as pl

    match = _PART.fullmatch(path.name)
    if match is None or not path.is_file():
        return Problem(str(path), "not a part of the log; the engine gives no such name.")
    try:
        data = path.read_bytes()
    except OSError as error:
        return Problem(str(path), f"cannot be read ({error.strerror}).")
    if digest_bytes(data)[:32] != match[1]:
        return Problem(str(path), "damaged: its bytes differ from the digest in its name.")
    frame = pl.read_parquet(data)
    if frame.schema != pl.Schema(record_columns()):
        version = frame["schema_version"].max() if "schema_version" in frame.columns else "unknown"
        return Problem(
            str(path),
            f"written with schema version {version}, or other columns; this program reads version "
            f"{SCHEMA_VERSION}.",
        )
    return frame


@dataclass(frozen=True, slots=True)
class History:
    """What the log says of a campaign's past, ready for planning.

    Attributes:
        latest: The latest attempt under each row's names.
        by_job: The latest attempt at each request.
        attempts: Attempts made at each request, interrupted ones not counted.
        clip_bytes: File name of each published clip -> its size.
    """

    latest: dict[RowKey, PastResult]
    by_job: dict[str, PastResult]
    attempts: dict[str, int]
    clip_bytes: dict[str, int]


def read_history(folder: Path) -> History:
    """Read the records of one folder as history.

    Raises:
        DamagedError: As `read_log`.
    """
    return history_of(ProvenanceRecord(**row) for row in read_parts(folder).iter_rows(named=True))


def history_of(records: Iterable[ProvenanceRecord]) -> History:
    """Sum up records given oldest first."""
    history = History({}, {}, {}, {})
    for record in records:
        past = record.to_past_result()
        history.latest[past.row_key] = past
        history.by_job[past.job_id] = past
        if record.clip:
            history.clip_bytes[record.clip] = record.clip_bytes
        charged = past.status is not Status.INTERRUPTED
        history.attempts[past.job_id] = history.attempts.get(past.job_id, 0) + charged
    return history
