"""The log's files as bytes: their names, the index that lists them, how each becomes durable.

Formats do not notice their own damage (one flipped bit goes unseen in 94 % of parquet files), so a
file's name carries the sha256 of its bytes; and a folder does not notice a deleted file, so the
index lists their names. It knows no record: what the bytes mean is the store's business.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lynx_engine.digest import digest_bytes
from lynx_engine.errors import Problem

INDEX = "index"
DIGEST_CHARACTERS = 32
PART = re.compile(r"part-[0-9]{8}T[0-9]{12}Z-[0-9a-f]{12}-a[0-9]+-([0-9a-f]{32})\.parquet")
FOLDED = re.compile(r"log-[0-9]{8}T[0-9]{12}Z-[0-9]+-([0-9a-f]{32})\.parquet")

# A fold of a thousand parts deletes for some 20 ms; these tries wait 5 s in all.
_TRIES = 100
_PAUSE_S = 0.001


def digest_in(name: str) -> str | None:
    """Return the digest that a part's or folded file's name carries, or None for another name."""
    match = PART.fullmatch(name) or FOLDED.fullmatch(name)
    return None if match is None else match[1]


def is_whole(name: str, data: bytes) -> bool:
    """Return whether `data` are the bytes that the file was given its `name` for."""
    return digest_bytes(data)[:DIGEST_CHARACTERS] == digest_in(name)


def write_durably(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Create `path` with `data` so that it is there whole or not at all, whatever dies when.

    Args:
        path: The file; one that is there already is replaced.
        data: All of its bytes.
        mode: Who may read it, less what the umask forbids.

    Raises:
        OSError: If the disk refuses.
    """
    temp = write_temp(path, data, mode=mode)
    try:
        temp.replace(path)
    except BaseException:
        remove_temp(temp)
        raise
    sync_folder(path.parent)


def write_temp(path: Path, data: bytes, *, mode: int = 0o666) -> Path:
    """Write `data` to disk beside `path`, under a name that readers pass over.

    Returns:
        The temp file, forced to disk; its name holds the whole name of `path`.

    Raises:
        OSError: If the disk refuses; no file is left then.
    """
    # Not the process id: in a container a dead writer's successor may have the same one.
    temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        remove_temp(temp)
        raise
    return temp


def name_behind(temp: Path) -> str:
    """Return the name that a temp file was to get."""
    return temp.name.removeprefix(".").removesuffix(".tmp").rpartition(".")[0]


def remove_temp(temp: Path) -> None:
    """Delete a temp file if the disk lets us; the next run sweeps what stays."""
    with contextlib.suppress(OSError):
        temp.unlink()


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a rename survives a power cut.

    Raises:
        OSError: If the disk refuses.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_to_index(folder: Path, name: str) -> None:
    """List a file that is in place. Not forced to disk: an unlisted file is read all the same.

    Raises:
        OSError: If the disk refuses; the index holds whole lines then, as before.
    """
    line = f"{name}\n".encode("ascii")
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(folder / INDEX, flags, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, line) != len(line):
            # A nearly full disk took half a line; the next one would be glued to it. An
            # unlisted file is read all the same.
            os.ftruncate(descriptor, before)
    finally:
        os.close(descriptor)


def write_index(folder: Path, names: Iterable[str]) -> None:
    """Replace the index by one that lists `names` alone, durably and at once.

    Raises:
        OSError: If the disk refuses; the old index stays then.
    """
    write_durably(folder / INDEX, "".join(f"{name}\n" for name in names).encode("ascii"))


@dataclass(frozen=True, slots=True)
class Index:
    """What the index says.

    Attributes:
        listed: The names it lists, in order; empty without an index.
        problems: One for each line that is no name.
        is_torn: Whether its last line is unfinished: the writer died while it appended.
    """

    listed: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    is_torn: bool = False


def read_index(folder: Path) -> Index:
    """Return what the folder's index says now.

    Raises:
        OSError: If it is there but cannot be read.
    """
    with contextlib.ExitStack() as stack:
        file = _open_index(folder, stack)
        return Index() if file is None else _parse_index(folder / INDEX, file.read())


def _open_index(folder: Path, stack: contextlib.ExitStack) -> BinaryIO | None:
    path = folder / INDEX
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # To open a fifo would be to wait for somebody who writes into it.
            raise OSError(errno.EINVAL, "not a file", str(path))
        return stack.enter_context(path.open("rb"))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _parse_index(path: Path, data: bytes) -> Index:
    *lines, last = data.split(b"\n")
    listed: list[str] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        name = line.decode("latin-1")
        if digest_in(name) is None:
            shown = ascii(name if len(name) <= 120 else f"{name[:119]}…")
            text = f"damaged: {shown} is no name of a part of the log."
            problems.append(Problem(f"{path}:{number}", text))
        else:
            listed.append(name)
    return Index(tuple(listed), tuple(problems), is_torn=bool(last))


def names_in(folder: Path) -> list[str]:
    """Return the names of the folder's files, sorted, without the index and without dot-files.

    Dot-files are parts whose writer died before the rename, or a file manager's own.

    Raises:
        OSError: If the folder is there but cannot be listed.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208  # names are all we need of 100,000 files
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        if os.path.lexists(folder):
            raise
        return []  # a folder above it is a file: there is no log
    return sorted(name for name in names if name != INDEX and not name.startswith("."))


@dataclass(frozen=True, slots=True)
class LogFiles:
    """The log's files, all as they were at one moment.

    Attributes:
        contents: File name -> bytes, sorted by name, of every file that is whole.
        index: What the index said.
        problems: What is damaged, missing or foreign.
    """

    contents: dict[str, bytes]
    index: Index = Index()
    problems: tuple[Problem, ...] = ()


def read_files(folder: Path) -> LogFiles:
    """Read every file of the log while its writer may add parts or fold them.

    Args:
        folder: The log's folder; one that is not there is an empty log.

    Returns:
        The files. What is wrong with any is a problem, never an exception.
    """
    for number in range(_TRIES):
        time.sleep(number * _PAUSE_S)
        try:
            files = _read_once(folder)
        except OSError as error:
            place = error.filename or folder
            return LogFiles(
                {}, problems=(Problem(str(place), f"cannot be read ({error.strerror})."),)
            )
        if files is not None:
            return files
    text = f"changed {_TRIES} times while it was read; run the command again."
    return LogFiles({}, problems=(Problem(str(folder), text),))


def _read_once(folder: Path) -> LogFiles | None:
    """Return the files, or None if the writer folded some of them meanwhile.

    The index is read first: a file gets its name before its line, so every listed one must be
    there. It stays open to the end, so that no other file is given its inode: another inode under
    its name means that it was replaced, which is what a fold does before it deletes. With the same
    one in place, a file that went away meanwhile was a leftover, and the listed ones hold its rows.
    """
    with contextlib.ExitStack() as stack:
        file = _open_index(folder, stack)
        index = Index() if file is None else _parse_index(folder / INDEX, file.read())
        read: dict[str, bytes | Problem] = {}
        for name in names_in(folder):
            data = _read_file(folder / name)
            if data is not None:
                read[name] = data
        if not _is_in_place(file, folder / INDEX):
            return None
    return _checked(folder, index, read)


def _read_file(path: Path) -> bytes | Problem | None:
    """Return the bytes, or what is wrong, or None if the file is gone."""
    try:
        if digest_in(path.name) is None or not stat.S_ISREG(path.stat().st_mode):
            return _foreign(path)
        return path.read_bytes()
    except FileNotFoundError:
        return _foreign(path) if path.is_symlink() else None
    except OSError as error:
        return Problem(str(path), f"cannot be read ({error.strerror}).")


def _foreign(path: Path) -> Problem:
    return Problem(str(path), "not a part of the log; the engine gives no such name.")


def _is_in_place(file: BinaryIO | None, path: Path) -> bool:
    try:
        now = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return file is None
    return file is not None and os.path.samestat(os.fstat(file.fileno()), now)


def _checked(folder: Path, index: Index, read: dict[str, bytes | Problem]) -> LogFiles:
    contents: dict[str, bytes] = {}
    problems: list[Problem] = []
    for name, data in read.items():
        if isinstance(data, Problem):
            problems.append(data)
        elif is_whole(name, data):
            contents[name] = data
        else:
            text = "damaged: its bytes differ from the digest in its name."
            problems.append(Problem(str(folder / name), text))
    problems += [
        Problem(str(folder / name), "missing: the index lists it. Put it back if you can.")
        for name in dict.fromkeys(index.listed)
        if name not in read
    ]
    return LogFiles(contents, index, (*problems, *index.problems))
