"""Tends the log between runs: folds its many parts into one file, mends what a dead writer left.

Only the holder of the campaign's lock may call these. A crash at any point loses nothing and
shows no row twice: a file is deleted only when another, durable and listed, holds all its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.digest import digest_bytes, digest_file
from lynx_engine.errors import DamagedError, Problem
from lynx_engine.jobs import PUBLISHED, Status
from lynx_engine.provenance.files import (
    DIGEST_CHARACTERS,
    FOLDED,
    PART,
    LogFiles,
    is_whole,
    name_behind,
    names_in,
    read_files,
    read_index,
    sync_folder,
    write_durably,
    write_index,
)
from lynx_engine.provenance.store import (
    DAMAGE_ADVICE,
    ROW,
    damage_headline,
    decode,
    encode,
    records_of,
    stamp_of,
)

if TYPE_CHECKING:
    import polars as pl


def fold_log(folder: Path) -> int:
    """Write all records of a log into one file, and delete the files that held them.

    Args:
        folder: The log's folder.

    Returns:
        The rows of the new file, or 0 if there was nothing to fold.

    Raises:
        DamagedError: If any file is damaged, missing or foreign; nothing was touched then.
        OSError: If the disk refuses; the log reads as before.
    """
    files = read_files(folder)
    log = records_of(folder, files)
    if log.is_empty() or _is_folded(files):
        return 0
    data = encode(log, packed=True)
    digest = digest_bytes(data)[:DIGEST_CHARACTERS]
    name = f"log-{stamp_of(log['finished_at'][-1])}-{log.height}-{digest}.parquet"
    write_durably(folder / name, data)
    write_index(folder, [name])
    _delete(folder, files.contents.keys() - {name})
    return log.height


def _is_folded(files: LogFiles) -> bool:
    names = tuple(files.contents)
    is_one = len(names) == 1 and FOLDED.fullmatch(names[0]) is not None
    return is_one and files.index.listed == names and not files.index.is_torn


def _delete(folder: Path, names: set[str]) -> None:
    for name in sorted(names):
        (folder / name).unlink()


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a dead writer had left.

    Attributes:
        adopted: Clips whose record was on disk but not yet in the log, and is now.
        removed: Unfinished files that were deleted.
        listed: Files of the log that the index did not list, and does now.
        leftovers: Files deleted because a folded file holds all their rows.
    """

    adopted: tuple[str, ...] = ()
    removed: int = 0
    listed: int = 0
    leftovers: int = 0


def recover_log(folder: Path, clips: Path) -> Recovery:
    """Finish or undo what a dead writer was doing.

    A record that is whole on disk and whose clip was published is adopted: its writer died
    between the two renames. Every other unfinished file is removed.

    Args:
        folder: The log's folder.
        clips: The folder of published clips.

    Returns:
        What was done; an orderly log costs one look at the names.

    Raises:
        DamagedError: If any file is damaged, missing or foreign; nothing was touched then.
        OSError: If the disk refuses; another call goes on from there.
    """
    temps = sorted(folder.glob(".*.tmp"))
    if not temps and _is_orderly(folder):
        return Recovery()
    files = read_files(folder)
    if files.problems:
        raise DamagedError(damage_headline(files.problems), files.problems, DAMAGE_ADVICE)
    leftovers = _find_leftovers(folder, files)
    found = {temp: _published_clip(temp, clips) for temp in temps}
    adopted = {temp: clip for temp, clip in found.items() if clip}
    for temp in adopted:
        temp.replace(folder / name_behind(temp))
    if adopted:
        sync_folder(folder)
    kept = sorted({*files.contents, *map(name_behind, adopted)} - leftovers)
    if files.index.is_torn or set(kept) != set(files.index.listed):
        write_index(folder, kept)
    _delete(folder, leftovers)
    unfinished = [temp for temp in temps if temp not in adopted]
    for temp in unfinished:
        temp.unlink()
    newly_listed = files.contents.keys() - leftovers - set(files.index.listed)
    return Recovery(
        adopted=tuple(adopted.values()),
        removed=len(unfinished),
        listed=len(newly_listed),
        leftovers=len(leftovers),
    )


def _is_orderly(folder: Path) -> bool:
    """Return whether the index lists exactly the files that are there."""
    try:
        index, names = read_index(folder), names_in(folder)
    except OSError:
        return False  # reading the files names the cause
    return not index.problems and not index.is_torn and set(index.listed) == set(names)


def _find_leftovers(folder: Path, files: LogFiles) -> set[str]:
    """Return the files whose every row the largest folded file holds too.

    Raises:
        DamagedError: If a whole file cannot be read as records.
    """
    import polars as pl

    if not any(FOLDED.fullmatch(name) for name in files.contents):
        return set()
    frames: dict[str, pl.DataFrame] = {}
    problems: list[Problem] = []
    for name, data in files.contents.items():
        frame = decode(folder / name, data)
        if isinstance(frame, Problem):
            problems.append(frame)
        else:
            frames[name] = frame.select(ROW)
    if problems:
        raise DamagedError(damage_headline(problems), problems, DAMAGE_ADVICE)
    folded = [name for name in frames if FOLDED.fullmatch(name)]
    largest = max(folded, key=lambda name: frames[name].height)
    others = {name: frame for name, frame in frames.items() if name != largest}
    if not others:
        return set()
    rows = pl.concat(frame.with_columns(file=pl.lit(name)) for name, frame in others.items())
    needed = rows.join(frames[largest], on=ROW, how="anti")["file"]
    return others.keys() - set(needed)


def _published_clip(temp: Path, clips: Path) -> str:
    """Return the clip that a prepared record tells of if both are whole, else ""."""
    name = name_behind(temp)
    if PART.fullmatch(name) is None or temp.is_symlink() or not temp.is_file():
        return ""
    data = temp.read_bytes()
    frame = decode(temp, data) if is_whole(name, data) else None
    if frame is None or isinstance(frame, Problem) or frame.height != 1:
        return ""
    record = frame.row(0, named=True)
    clip = str(record["clip"])
    if Status(record["status"]) not in PUBLISHED or not clip or Path(clip).name != clip:
        return ""
    path = clips / clip
    if not path.is_file() or path.stat().st_size != record["clip_bytes"]:
        return ""
    return clip if digest_file(path) == record["clip_digest"] else ""
