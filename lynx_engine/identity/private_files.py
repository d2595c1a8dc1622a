"""Files that their owner alone may read, in folders that no link leads away from.

It knows nothing of faces or keys: a file is in place whole and durable, or not at all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from pathlib import Path

from lynx_engine.errors import Problem, RefusedError
from lynx_engine.provenance.files import remove_temp, sync_folder


def is_folder(path: Path) -> bool:
    """Return whether a folder is there, refusing what stands in its place.

    Raises:
        RefusedError: If it is a file, a link or anything else.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(mode):
        text = (
            "no folder, and what is kept of faces lies in a folder here. A link is not followed: "
            "remove it, or move it away"
        )
        raise RefusedError([Problem(str(path), text)], outcome="nothing was kept or forgotten")
    return True


def make_folder(folder: Path) -> None:
    """Make a folder that its owner alone may enter, or close one that is there to others."""
    if not is_folder(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        is_folder(folder)  # what was put there meanwhile may be a link
    elif stat.S_IMODE(folder.stat().st_mode) != 0o700:
        folder.chmod(0o700)


def read_file(path: Path, limit: int = -1) -> bytes | None:
    """Return a file's bytes up to `limit`, None without one; what is no file reads as empty.

    Raises:
        OSError: If it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return b""  # a fifo would be waited for, a link followed
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return file.read(limit)
    except FileNotFoundError:
        return None


def write_file(path: Path, data: bytes) -> None:
    """Put a file in place, whole and durable, or not at all.

    Raises:
        OSError: If the disk refuses.
    """
    temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(temp, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except BaseException:
        remove_temp(temp)
        raise
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file, or a folder that does not belong here, links as links."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
