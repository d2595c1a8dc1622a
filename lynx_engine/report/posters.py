"""Makes the posters that clips of older runs lack, so that a report shows pictures at once."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lynx_engine.errors import RowError
from lynx_engine.media.poster import write_poster
from lynx_engine.media.video import read_frames
from lynx_engine.provenance.files import remove_temp, write_durably
from lynx_engine.survey import CLIPS_FOLDER, POSTERS_FOLDER, poster_name

logger = logging.getLogger(__name__)

MOST_MADE = 200
"""Posters made in one call; a further call makes the next ones."""

_THREADS = 2


def make_posters(folder: Path, clips: Sequence[str]) -> frozenset[str]:
    """Make missing posters of a campaign's clips, `MOST_MADE` at most.

    A clip that does not decode, or a folder that cannot be written, leaves a plain tile.

    Args:
        folder: The campaign's.
        clips: File names of clips that are there.

    Returns:
        File names of the posters that are there now.
    """
    posters = folder / POSTERS_FOLDER
    there = frozenset(path.name for path in posters.glob("*.jpg"))
    missing = [name for name in clips if poster_name(name) not in there][:MOST_MADE]
    if not missing:
        return there
    try:
        posters.mkdir(exist_ok=True)
    except OSError as error:
        logger.warning("no posters: %s: %s", error.filename, error.strerror)
        return there
    with ThreadPoolExecutor(_THREADS) as threads:
        made = threads.map(
            lambda name: _make(folder / CLIPS_FOLDER / name, posters / poster_name(name)), missing
        )
        return there.union(name for name in made if name)


def _make(clip: Path, poster: Path) -> str:
    """Return the poster's name, "" if it cannot be made.

    A report takes no lock: whoever removed or replaced the clip meanwhile has seen to its poster
    already, so that the one made here goes again.
    """
    temp = poster.with_name(f".{poster.name}.{secrets.token_hex(8)}.draft")
    try:
        before = _identity_of(clip)
        write_poster(read_frames(clip), temp)
        write_durably(poster, temp.read_bytes())
        if _identity_of(clip) != before:
            poster.unlink(missing_ok=True)
            return ""
    except (RowError, OSError) as error:
        logger.warning("no poster of %s: %s", clip.name, error)
        return ""
    finally:
        remove_temp(temp)
    return poster.name


def _identity_of(clip: Path) -> tuple[int, int] | None:
    """Return what tells a file from another of its name, None if there is none."""
    try:
        found = clip.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
