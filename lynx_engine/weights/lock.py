"""`models.lock.json`: the sha256 of each weight file, and where that digest comes from.

`{"files": {name in the public layout: {"sha256", "size", "source", "revision", "digest"}}}`; only
`sha256` must be there. It is written whole or not at all, by one process at a time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
import re
import secrets
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lynx_engine.digest import digest_file
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.folders import ModelsPlace

logger = logging.getLogger(__name__)

LOCK_NAME = "models.lock.json"
OF_THE_HUB = "of the Hub's metadata"
OF_THE_BLOB = "of bytes whose git blob id is the Hub's"
OF_FIRST_DOWNLOAD = "of the first download"
OF_FILE_FOUND = "of the file found here"
STATED = "stated with --sha256"
_SHA256 = re.compile("[0-9a-f]{64}")
_CANNOT_LOCK = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})


@dataclass(frozen=True, slots=True)
class LockedFile:
    """What the lock says of one file.

    Attributes:
        sha256: In hex, lower case.
        size: Bytes; None where nobody noted it.
        source: Where it comes from, in words; "" if unknown.
        revision: The Hub's commit; "" for a file that is not of the Hub.
        digest: Whose word the sha256 is: "of the Hub's metadata", "of the first download", ...
    """

    sha256: str
    size: int | None = None
    source: str = ""
    revision: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no sha256, size or word."""
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"no sha256: {self.sha256!r}")
        if self.size is not None and (type(self.size) is not int or self.size < 0):
            raise ValueError(f"no size in bytes: {self.size!r}")
        if not all(isinstance(word, str) for word in (self.source, self.revision, self.digest)):  # pyright: ignore[reportUnnecessaryIsInstance]  # read from a file
            raise ValueError("source, revision and digest are words")


def read_lock(models_dir: ModelsPlace) -> dict[str, LockedFile]:
    """Return what `models.lock.json` lists; {} when there is no such file.

    Raises:
        RowError: WEIGHTS, if the lock file is there and is not `{"files": {path: {"sha256"}}}`.
    """
    lock = models_dir / LOCK_NAME
    if not (lock.exists() or lock.is_symlink()):
        return {}
    try:
        files = json.loads(lock.read_text(encoding="utf-8"))["files"]
        return {str(path): _entry(facts) for path, facts in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RowError(
            ErrorCode.WEIGHTS,
            f'{lock}: not a lock file, which holds {{"files": {{path: {{"sha256": ...}}}}}} '
            f"({error!r}). Mend or delete it.",
        ) from error


def _entry(facts: Mapping[str, Any]) -> LockedFile:
    known = {n: facts[n] for n in ("size", "source", "revision", "digest") if n in facts}
    return LockedFile(str(facts["sha256"]).lower(), **known)


def locked_digests(models_dir: ModelsPlace) -> dict[str, str]:
    """Return path -> sha256 as `models.lock.json` lists them; {} when there is no such file.

    Raises:
        RowError: WEIGHTS, as `read_lock` does.
    """
    return {path: entry.sha256 for path, entry in read_lock(models_dir).items()}


def add_to_lock(models_dir: ModelsPlace, entries: Mapping[str, LockedFile]) -> None:
    """Put `entries` into the lock, over those of the same name; all others stay.

    Raises:
        RowError: WEIGHTS, if the lock that is there cannot be read.
        OSError: If the disk refuses; the lock is as it was then.
    """
    if not entries:
        return
    path = models_dir / LOCK_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.with_name(f".{LOCK_NAME}.held")):
        _write(path, read_lock(models_dir) | dict(entries))


def write_lock(folder: Path) -> None:
    """List the sha256 of every file below `folder` in its `models.lock.json`.

    Raises:
        OSError: If a file cannot be read, or the lock not written.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {p.relative_to(folder).as_posix(): LockedFile(digest_file(p)) for p in files}
    _write(folder / LOCK_NAME, listed)


def _write(path: Path, files: Mapping[str, LockedFile]) -> None:
    listed = {
        name: {key: value for key, value in asdict(entry).items() if value not in ("", None)}
        for name, entry in sorted(files.items())
    }
    write_whole(path, json.dumps({"files": listed}, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or as it was, whatever dies when.

    Raises:
        OSError: If the disk refuses.
    """
    temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone(path: Path, *, waiting: Callable[[str], None] | None = None) -> Generator[None]:
    """Run the block while no other process is in a block of the same `path`.

    Args:
        path: A file made for this; it stays. The system frees it when its holder dies.
        waiting: Told who holds it, if somebody does.

    Raises:
        OSError: If the file cannot be made.
    """
    with path.open("a+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            if waiting is not None:
                waiting(file.read().strip() or "another process")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _CANNOT_LOCK:
                raise
            # Some cluster disks know no locks; then nothing but care keeps two writers apart.
            logger.warning("%s: %s; two at once are not kept apart here", path, error.strerror)
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
        yield
