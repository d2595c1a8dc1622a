"""Finds the record of a clip, wherever the file lies and whatever it is called now.

Pure: records and what is known of a file in, the record and how it was recognised out. A name is
no evidence and counts last; a tag can be copied, so frames decide whether a tagged file is altered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

Record = Mapping[str, Any]
"""Column -> value, one row of the log."""


class FoundBy(StrEnum):
    """How a file was recognised.

    Attributes:
        DIGEST: It is the published file, byte for byte.
        TAG: Its metadata names the job.
        FRAMES: It decodes to the same frames: it was remuxed, and lost its tags.
        NAME: Nothing but its name speaks for it.
    """

    DIGEST = "digest"
    TAG = "tag"
    FRAMES = "frames"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of a file that may be a clip.

    Attributes:
        name: Its name.
        digest: sha256 of it.
        job_id: Job id that its metadata names, "" without one.
        frames_digest: Digest of its decoded frames, "" if it does not decode.
    """

    name: str
    digest: str
    job_id: str = ""
    frames_digest: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """The record of a file.

    Attributes:
        record: Its row of the log; of several, the latest that published a clip.
        found_by: How it was recognised.
        is_altered: Whether its frames are others than the record's, or cannot be decoded.
    """

    record: Record
    found_by: FoundBy
    is_altered: bool = False

    @property
    def told(self) -> str:
        """How it was found, in words for a person; "" for the untouched file."""
        match self.found_by:
            case FoundBy.DIGEST:
                return ""
            case FoundBy.NAME:
                return "found by its name; its content is not what was recorded."
            case FoundBy.TAG if self.is_altered:
                return (
                    "found by the job id in its tags, but altered: its content is not what was "
                    "recorded."
                )
            case FoundBy.TAG:
                return "found by the job id in its tags; another file, with the same frames."
            case _:
                return "found by its decoded frames; another file, without its tags."


def trace(records: pl.DataFrame, digest: str, look: Callable[[], FileFacts]) -> Trace | None:
    """Return the record of a file, None if there is none.

    Args:
        records: Every column of the log, oldest first.
        digest: sha256 of the file.
        look: Decodes it and reads its tags; asked only if the digest is not on record.
    """
    import polars as pl

    same_file = latest_published(records.filter(pl.col("clip_digest") == digest))
    if same_file is not None:
        return Trace(same_file, FoundBy.DIGEST)
    facts = look()
    decoded = facts.frames_digest != ""
    same_frames = records.filter((pl.col("frames_digest") == facts.frames_digest) & decoded)
    tagged = records.filter((pl.col("job_id") == facts.job_id) & (facts.job_id != ""))
    both = same_frames.filter(pl.col("job_id") == facts.job_id)
    if (found := latest_published(tagged if both.is_empty() else both)) is not None:
        return Trace(found, FoundBy.TAG, is_altered=both.is_empty())
    if (found := latest_published(same_frames)) is not None:
        return Trace(found, FoundBy.FRAMES)
    named = latest_published(records.filter(pl.col("clip") == facts.name))
    return None if named is None else Trace(named, FoundBy.NAME, is_altered=True)


def latest_published(records: pl.DataFrame) -> Record | None:
    """Return the latest record that published a clip, else the latest; None without any."""
    import polars as pl

    published = records.filter(pl.col("clip") != "")
    chosen = records if published.is_empty() else published
    return None if chosen.is_empty() else chosen.row(-1, named=True)
