"""The campaign's folder: one writer at a time, swept of what a killed run left.

It knows no plan and no pool. The system frees the lock when its holder dies, however it dies.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lynx_engine.errors import UNWRITABLE, LockedError, pause_for
from lynx_engine.provenance.store import FOLDER as LOG_FOLDER
from lynx_engine.survey import CLIPS_FOLDER

logger = logging.getLogger(__name__)

DRAFTS_FOLDER = ".drafts"
LOCK_FILE = ".lock"


@dataclass(frozen=True, slots=True)
class CampaignLock:
    """Proof that this process alone writes in `folder`; made by `lock_campaign`."""

    folder: Path


@contextmanager
def lock_campaign(folder: Path) -> Generator[CampaignLock]:
    """Make the campaign's folders if need be, and hold them until the block ends.

    Raises:
        LockedError: If another process holds them.
        PausedError: If the place cannot be written.
    """
    try:
        for name in (CLIPS_FOLDER, LOG_FOLDER, DRAFTS_FOLDER):
            (folder / name).mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise pause_for(error, folder) from None
        raise
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise LockedError(
                f"{folder} is being rendered by {holder}. Wait for it, or stop it first."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        _sweep(folder)
        yield CampaignLock(folder)
        _sweep(folder)


def _sweep(folder: Path) -> None:
    """Remove drafts and half-written parts; nobody else writes here under the lock."""
    left = [*(folder / DRAFTS_FOLDER).iterdir(), *(folder / LOG_FOLDER).glob(".*.tmp")]
    for path in left:
        path.unlink()
    if left:
        logger.info("removed %d unfinished files of an earlier run", len(left))
