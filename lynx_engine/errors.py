"""The one tree of errors, and the exit codes a shell sees.

An error is a short letter: where, what, why, what to do. Nothing here knows what any of it is
about; the module that finds a fault writes the letter.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import ClassVar, NamedTuple

from lynx_engine.manifest_rules import Rule


class ExitCode(IntEnum):
    """What the shell is told. Where several hold: signals, then 3, 5, 1."""

    OK = 0
    ROWS_FAILED = 1
    REFUSED = 2
    BUG = 3
    DAMAGED = 4
    PAUSED = 5
    LOCKED = 6


class ErrorCode(StrEnum):
    """Why a row did not become a clip; stored in the provenance record.

    Attributes:
        IMAGE: The subject photo cannot be read as the picture it claims to be.
        FACE: No face, several faces, or a face too small in the subject photo.
        WEIGHTS: A weight file is missing, incomplete or does not fit the model.
        LORA: A LoRA file changed, cannot be read or does not fit the model.
        ENCODER: ffmpeg failed or wrote nothing usable.
        BAD_CLIP: The clip decoded to a wrong count, size or rate, or to a blank picture.
        BAD_FRAMES: The model produced NaN or a picture without content.
        IO: Reading or writing failed in a way that often passes (network disk, busy file).
        OUT_OF_MEMORY: The device ran out of memory.
        WORKER_DIED: The device process ended while it held the row.
        DISK: The disk is full, read-only or out of quota.
        SAFETY: A safety classifier flagged the clip, or could not say; it was withheld.
        SCORE: The likeness of the clip could not be scored, and a gate waits for it.
        CONSENT: The right to the face expired, or was withdrawn, while the campaign ran.
        INTERNAL: Our bug; the traceback lies beside the log.
    """

    IMAGE = "image"
    FACE = "face"
    WEIGHTS = "weights"
    LORA = "lora"
    ENCODER = "encoder"
    BAD_CLIP = "bad_clip"
    BAD_FRAMES = "bad_frames"
    IO = "io"
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_DIED = "worker_died"
    DISK = "disk"
    SAFETY = "safety"
    SCORE = "score"
    CONSENT = "consent"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing a person must mend.

    Attributes:
        where: File and line as `path:line`, or the file, setting or device concerned.
        text: What is wrong, why, and what to do, in one or two sentences.
        rule: The rule of manifests that was broken; None for a fault of anything else.
    """

    where: str
    text: str
    rule: Rule | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """Return `where: text [rule]`, the form every command prints."""
        return f"{self.where}: {self.text}" + (f" [{self.rule}]" if self.rule else "")

    def as_json(self) -> dict[str, str | None]:
        """Return the problem as `--json` tells it."""
        return {"where": self.where, "text": self.text, "rule": self.rule}


class Letter(NamedTuple):
    """What is wrong with a manifest, by the rule it breaks; where that is, `at` adds."""

    rule: Rule
    text: str

    def at(self, where: str) -> Problem:
        """Return the problem at a file and line."""
        return Problem(where, self.text, self.rule)


class RuleError(ValueError):
    """A value that breaks a rule of manifests.

    Attributes:
        letter: The rule, and the words for the author.
    """

    def __init__(self, rule: Rule, text: str) -> None:
        """Refuse by `rule`; `text` says what is wrong, why, and what to do."""
        self.letter = Letter(rule, text)
        super().__init__(text)


class LynxError(Exception):
    """Any fault this package foresees.

    Attributes:
        exit_code: What the command line returns when the error ends the command.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.REFUSED


class ProblemsError(LynxError):
    """Several faults told at once, never only the first.

    Attributes:
        problems: At least one, in the order a reader meets them.
    """

    def __init__(self, headline: str, problems: Iterable[Problem], advice: str = "") -> None:
        """Write one letter: `headline`, a line for each of `problems`, then `advice`."""
        self.problems = tuple(problems)
        lines = [f"{headline}:", *(f"  {problem}" for problem in self.problems)]
        super().__init__("\n".join([*lines, advice] if advice else lines))


class RefusedError(ProblemsError):
    """Work was refused before it began; nothing was rendered, nothing changed."""

    def __init__(
        self, problems: Iterable[Problem], *, outcome: str = "nothing was rendered"
    ) -> None:
        """Collect `problems`; `outcome` ends the headline, as in "3 problems, <outcome>"."""
        found = tuple(problems)
        headline = f"{len(found)} problem{'' if len(found) == 1 else 's'}, {outcome}"
        super().__init__(headline, found)


class RowError(LynxError):
    """One row failed; the others go on.

    Attributes:
        code: The typed reason kept in the record.
        transient: Whether the same work may succeed when tried again.
        stderr: The last lines that the failing program or process wrote, else "".
    """

    def __init__(
        self, code: ErrorCode, message: str, *, transient: bool = False, stderr: str = ""
    ) -> None:
        """Carry `code` and a message that says what failed, why, and what to do."""
        self.code = code
        self.transient = transient
        self.stderr = stderr
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip from a device process."""
        return (_row_error, (self.code, str(self), self.transient, self.stderr))


def _row_error(code: ErrorCode, message: str, transient: bool, stderr: str) -> RowError:
    return RowError(code, message, transient=transient, stderr=stderr)


class DamagedError(ProblemsError):
    """State files differ from what was written; each one is named."""

    exit_code = ExitCode.DAMAGED


class AbandonedError(LynxError):
    """A row in flight was given up because the run is being stopped."""


class DeviceLostError(LynxError):
    """A device cannot be had any more; its row is not charged."""


class PausedError(LynxError):
    """The campaign cannot go on now (disk full, no device); nothing is marked failed."""

    exit_code = ExitCode.PAUSED


UNWRITABLE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EFBIG,
        errno.EIO,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
    }
)
"""System errors that a person mends outside the program: a full, read-only or wrong place."""

PASSING = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
"""System errors that often pass by themselves, on network disks above all."""


def pause_for(error: OSError, place: object) -> PausedError:
    """Return the letter for a place that cannot be written; `place` serves if none is named."""
    return PausedError(
        f"{error.filename or place}: {error.strerror}. Nothing is lost: make room, or make it "
        "writable, and run the same command again."
    )


@contextmanager
def pausing(place: object) -> Generator[None]:
    """Turn a disk that refuses into `PausedError`; `place` is named where the error names none."""
    try:
        yield
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise pause_for(error, place) from None
        raise


class LockedError(LynxError):
    """Another process holds the campaign."""

    exit_code = ExitCode.LOCKED


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the closest known name, or "" when none is close."""
    return _nearest(name, tuple(known))


# One misspelt column stands in every row of a table.
@lru_cache(maxsize=256)
def _nearest(name: str, known: tuple[str, ...]) -> str:
    import difflib  # here: only a mistake pays for it

    # Upper and lower case, and what joins words, are no difference in kind.
    alike = {_folded(word): word for word in reversed(known)}
    found = difflib.get_close_matches(_folded(name), alike, n=1, cutoff=0.6)
    return f", did you mean '{alike[found[0]]}'?" if found else ""


def _folded(name: str) -> str:
    return name.strip().casefold().translate(_JOINTS)


_JOINTS = str.maketrans("- \xa0", "___")
