"""The campaign's folder: one writer at a time, swept of what a killed run left.

It knows no plan and no pool. The system frees the lock when its holder dies, however it dies.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from lynx_engine.errors import DamagedError, LockedError, pausing
from lynx_engine.provenance.folding import Recovery, recover_log
from lynx_engine.provenance.store import FOLDER as LOG_FOLDER
from lynx_engine.provenance.store import sync_folder
from lynx_engine.survey import CLIPS_FOLDER

logger = logging.getLogger(__name__)

DRAFTS_FOLDER = ".drafts"
LOCK_FILE = ".lock"
LIVE_FILE = ".live.json"
"""What a run tells other terminals; a killed run leaves it behind."""
_MOMENT_S = 1.0


@dataclass(frozen=True, slots=True)
class CampaignLock:
    """Proof that this process alone writes in `folder`; made by `lock_campaign`.

    Attributes:
        folder: The campaign's folder.
        recovered: What a killed run had left in its log, and what was done about it.
    """

    folder: Path
    recovered: Recovery = field(default_factory=Recovery)


@contextmanager
def lock_campaign(folder: Path) -> Generator[CampaignLock]:
    """Make the campaign's folders if need be, and hold them until the block ends.

    Raises:
        LockedError: If another process holds them.
        PausedError: If the place cannot be written.
        DamagedError: If the log needs mending after a killed run, but a file of it is damaged.
    """
    with pausing(folder):
        for name in (CLIPS_FOLDER, LOG_FOLDER, DRAFTS_FOLDER):
            (folder / name).mkdir(parents=True, exist_ok=True)
        # A clip is as safe as the names of all folders above it, up to the workspace.
        for place in (folder, *folder.parents[:2]):
            if os.access(place, os.R_OK):  # a home's own folder may be closed to its owner
                sync_folder(place)
        file = (folder / LOCK_FILE).open("a+", encoding="utf-8", errors="replace")
    with file:
        _take(file, folder)
        with pausing(folder / LOCK_FILE):
            # Past the buffer: what a full disk refuses would be written again when it is closed.
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
        with pausing(folder):
            recovered = _sweep(folder)
        yield CampaignLock(folder, recovered)
        try:
            _sweep(folder)
        except (DamagedError, OSError) as error:
            logger.warning("left for the next run to tidy: %s", error)


def _take(file: TextIO, folder: Path) -> None:
    """Take the lock; commands that only look or clean hold it for moments."""
    give_up = time.monotonic() + _MOMENT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise LockedError(
                    f"{folder} is being rendered by {holder}. Wait for it, or stop it "
                    "(`lynx-engine cancel`)."
                ) from None
            time.sleep(_MOMENT_S / 10)
        else:
            return


def _sweep(folder: Path) -> Recovery:
    """Mend the log, and remove drafts; nobody else writes here under the lock."""
    found = recover_log(folder / LOG_FOLDER, folder / CLIPS_FOLDER)
    for clip in found.adopted:
        logger.warning("adopted %s: its record was written but not yet in place", clip)
    if found.listed:
        logger.info("listed %d files of the log that its index did not name", found.listed)
    if found.leftovers:
        logger.info("removed %d files of the log that were folded into another", found.leftovers)
    drafts = [*(folder / DRAFTS_FOLDER).iterdir(), *folder.glob(f"{LIVE_FILE}*")]
    for draft in drafts:
        draft.unlink()
    if drafts or found.removed:
        unfinished = len(drafts) + found.removed
        logger.info("removed %d unfinished files of an earlier run", unfinished)
    return found
