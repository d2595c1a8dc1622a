"""Remembers which files were hashed, so that 80 GB are not hashed each night.

A stamp says: this file, of this size, time and inode, had this sha256. The file of stamps lies in
the user's cache, carries its own digest, and may be deleted: then files are hashed once more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from lynx_engine.digest import digest_file, digest_mapping
from lynx_engine.weights.lock import alone, write_whole

logger = logging.getLogger(__name__)

STAMPS_NAME = "verified-weights.json"

Stamps = Mapping[str, str]
"""Resolved path -> "size mtime_ns inode sha256"."""


class FileFacts(NamedTuple):
    """What changes when a file is replaced or written to.

    Attributes:
        size: Bytes.
        mtime_ns: When it was last written, in nanoseconds.
        inode: Its number on its disk.
    """

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return the facts of a file as it is now.

        Raises:
            OSError: If it is not there, or may not be looked at.
        """
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


def read_stamps(cache_dir: Path) -> Stamps:
    """Return every stamp; none if the file is missing or damaged."""
    try:
        content = json.loads((cache_dir / STAMPS_NAME).read_text(encoding="utf-8"))
        stamps = {str(path): str(stamp) for path, stamp in content["stamps"].items()}
        if content["digest"] != digest_mapping(stamps):
            raise ValueError("digest differs")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s is not read (%r): hashing anew", cache_dir / STAMPS_NAME, error)
        return {}
    return stamps


def is_stamped(path: Path, sha256: str, stamps: Stamps) -> bool:
    """Whether the file was seen to have `sha256` and looks untouched since."""
    try:
        return stamps.get(str(path.resolve())) == _stamp(FileFacts.of(path), sha256)
    except OSError:
        return False


def digest_and_stamp(path: Path, cache_dir: Path) -> str:
    """Return a file's sha256, and remember it for the bytes that were read.

    A file that is replaced or written to meanwhile gets no stamp: none of its facts stands for
    what was read.

    Raises:
        OSError: If the file cannot be read.
    """
    before = FileFacts.of(path)
    sha256 = digest_file(path)
    if FileFacts.of(path) == before:
        add_stamps(cache_dir, {path: (before, sha256)})
    return sha256


def add_stamps(cache_dir: Path, seen: Mapping[Path, tuple[FileFacts, str]]) -> None:
    """Remember files that had these facts before and after they were seen to have these sha256.

    A cache that cannot be written is no fault of the weights: they are hashed again next time.
    """
    path = cache_dir / STAMPS_NAME
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        added = {str(p.resolve()): _stamp(facts, sha256) for p, (facts, sha256) in seen.items()}
        with alone(path.with_name(f".{STAMPS_NAME}.held")):
            kept = {p: s for p, s in read_stamps(cache_dir).items() if Path(p).exists()}
            stamps = dict(sorted((kept | added).items()))
            content = {"digest": digest_mapping(stamps), "stamps": stamps}
            write_whole(path, json.dumps(content, indent=1))
    except OSError as error:
        logger.warning("%s cannot be written (%s): hashing again next time", path, error)


def _stamp(facts: FileFacts, sha256: str) -> str:
    return f"{facts.size} {facts.mtime_ns} {facts.inode} {sha256}"
