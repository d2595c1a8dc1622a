"""Reads the small text files of a manifest: the manifest itself and its prompt files.

Everything here refuses what is not a plain file of the right size and encoding. It reads no
values: what a text says is for the readers.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lynx_engine.errors import RefusedError, RuleError
from lynx_engine.manifest_rules import Rule

MAX_MANIFEST_BYTES = 8 * 1024 * 1024
MAX_PROMPT_FILE_BYTES = 64 * 1024

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_AS_UTF8 = "save it as UTF-8 (Excel: Save As, CSV UTF-8; editors: Save As, encoding UTF-8)"
_LOOKED_AT_BYTES = 64


def read_manifest_text(path: Path) -> str:
    """Return the text of a manifest, without its byte order mark.

    Raises:
        RefusedError: If it is missing, not a plain file, larger than 8 MB, or not UTF-8.
    """
    try:
        data = _read_plain_file(path, MAX_MANIFEST_BYTES, "8 MB")
        return _decode(data)
    except _UnreadableError as error:
        where = str(path) if error.line is None else f"{path}:{error.line}"
        raise RefusedError([error.letter.at(where)]) from None


def read_prompt_text(folder: Path, written: str) -> str:
    """Return the text of a prompt file inside the manifest's folder.

    Args:
        folder: The manifest's folder.
        written: The path as the author wrote it.

    Raises:
        RuleError: If the path leaves the folder, or the file is missing, not a plain file, larger
            than 64 KB, or not UTF-8; the message is a letter to the author.
    """
    given = Path(written)
    if given.is_absolute() or ".." in given.parts or "\\" in written or "\0" in written:
        raise RuleError(
            Rule.BAD_PATH,
            f"prompt file '{written}' is not a path inside the manifest's folder; move the file "
            "there and write its relative path",
        )
    path = folder / given
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RuleError(
            Rule.BAD_PATH,
            f"prompt file '{written}' leads out of the manifest's folder; copy the file into it",
        )
    try:
        return _decode(_read_plain_file(path, MAX_PROMPT_FILE_BYTES, "64 KB"))
    except _UnreadableError as error:
        raise RuleError(error.letter.rule, f"prompt file '{written}': {error}") from None


class _UnreadableError(RuleError):
    """A text file that cannot be used; `line` where one can be named."""

    def __init__(self, rule: Rule, text: str, line: int | None = None) -> None:
        self.line = line
        super().__init__(rule, text)


def _read_plain_file(path: Path, limit: int, limit_in_words: str) -> bytes:
    try:
        # O_NONBLOCK: opening a pipe would otherwise wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _UnreadableError(Rule.UNREADABLE_FILE, "no such file; check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _UnreadableError(Rule.UNREADABLE_FILE, f"cannot be opened: {reason}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _UnreadableError(
                Rule.UNREADABLE_FILE, f"is {_kind_of(status.st_mode)}, not a file"
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise _UnreadableError(
            Rule.FILE_TOO_LARGE, f"larger than {limit_in_words}, the limit; split it"
        )
    return data


def _decode(data: bytes) -> str:
    if data.startswith(_UTF16_MARKS) or _is_unmarked_utf16(data[:_LOOKED_AT_BYTES]):
        raise _UnreadableError(Rule.ENCODING, f"the file is UTF-16; {_AS_UTF8}", 1)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Counted from behind the byte order mark, which `data` still has.
        line = _line_after(error.object[: error.start].decode())
        raise _UnreadableError(
            Rule.ENCODING, f"the file is not UTF-8 text from here on; {_AS_UTF8}", line
        ) from None
    nul = text.find("\0")
    if nul >= 0:
        line = _line_after(text[:nul])
        raise _UnreadableError(
            Rule.BAD_CHARACTER,
            "a NUL character stands here; delete it, or save the file as UTF-8 text",
            line,
        )
    return text


def _is_unmarked_utf16(start: bytes) -> bool:
    """Return whether every second byte is zero: Latin text in two bytes a character."""
    halves = (start[0::2], start[1::2])
    zeros = [half.count(0) for half in halves]
    return len(start) >= 4 and min(zeros) == 0 and max(zeros) * 2 > len(halves[1])


def _line_after(text: str) -> int:
    """Return the line on which what follows `text` stands, whatever ends the lines."""
    return text.count("\n") + text.count("\r") - text.count("\r\n") + 1


def _kind_of(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a device or socket"
