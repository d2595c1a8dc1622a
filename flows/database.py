"""Spares a new campaign the seconds in which Prefect makes its database.

Prefect takes an empty database through every version it ever had, about half of the time its
server needs to start. The first server of a Prefect release leaves a copy of what came out, before
any run is in it, in the user's cache; the first server of another campaign begins with that. It is
a convenience: whatever is wrong with the copy, the server makes its database itself.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sqlite3
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

logger = logging.getLogger(__name__)

DATABASE = "prefect.db"
_ELSEWHERE = ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")


def begin_with_copy(home: Path, cache: Path) -> bool:
    """Lay the cached database into a server's folder that has none; to be called before it starts.

    Args:
        home: The server's folder, which exists.
        cache: The user's cache folder.

    Returns:
        Whether the server will make a database of its own that is worth to be kept.
    """
    target, copy = home / DATABASE, _copy_in(cache)
    if target.exists() or any(os.environ.get(name) for name in _ELSEWHERE):
        return False
    if not copy.exists():
        return True
    temp = home / f".{DATABASE}.{secrets.token_hex(8)}"
    try:
        shutil.copyfile(copy, temp)
        if not _is_whole(temp):
            logger.warning("%s is damaged; it is made anew", copy)
            copy.unlink(missing_ok=True)
            return True
        temp.replace(target)
    except OSError as error:
        logger.warning("Prefect makes its database itself: %s", error)
    finally:
        with suppress(OSError):
            temp.unlink()
    return False


def keep_copy(home: Path, cache: Path) -> None:
    """Keep a copy of a new database; to be called when its server is ready and nothing runs yet.

    Args:
        home: The server's folder.
        cache: The user's cache folder, made if need be.
    """
    copy = _copy_in(cache)
    temp = copy.with_name(f".{copy.name}.{secrets.token_hex(8)}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # A copy of the file alone would lack what is in the write-ahead log still.
        with closing(sqlite3.connect(home / DATABASE)) as database:
            database.execute("VACUUM INTO ?", (str(temp),))
        temp.replace(copy)
    except (OSError, sqlite3.Error) as error:
        logger.warning("Prefect's database was not kept in %s: %s", cache, error)
    finally:
        with suppress(OSError):
            temp.unlink()


def _copy_in(cache: Path) -> Path:
    return cache / f"prefect-{version('prefect')}.db"


def _is_whole(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path)) as database:
            return database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    except sqlite3.Error:
        return False
