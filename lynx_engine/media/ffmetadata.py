"""ffmpeg's text form of a file's tags, written and read back without a change to a character.

Source: the ffmpeg manual, "Metadata". It opens no files and runs no program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_HEADER = b";FFMETADATA1\n"
_SPECIAL = re.compile(r"([=;#\\\n])")
# A line ends at a line feed with no backslash before it.
_LINE = re.compile(r"((?:[^\\\n]|\\.)*)(?:\n|\Z)", re.DOTALL)
_PAIR = re.compile(r"((?:[^\\=]|\\.)*)=(.*)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_SECTIONS = frozenset({"[STREAM]", "[CHAPTER]"})


def write_ffmetadata(tags: Mapping[str, str]) -> bytes:
    """Return tags as ffmpeg reads them with `-f ffmetadata`.

    Raises:
        ValueError: If a tag holds a NUL character or half a surrogate pair, which no mp4 can, a
            carriage return, which ends the line for ffmpeg (9.0), or a backslash at its end, behind
            which the line does not end. JSON, as `provenance.labels` writes it, has none of these.
    """
    text = "".join(f"{_escaped(name)}={_escaped(value)}\n" for name, value in tags.items())
    if "\0" in text or "\r" in text:
        raise ValueError("a tag holds a NUL character or a carriage return")
    if any(value.endswith("\\") for value in tags.values()):
        raise ValueError("a tag ends in a backslash")
    return _HEADER + text.encode()


def read_ffmetadata(data: bytes) -> dict[str, str]:
    """Return the tags of the whole file from what ffmpeg wrote with `-f ffmetadata`."""
    tags: dict[str, str] = {}
    for line in _LINE.findall(data.decode(errors="replace")):
        if line in _SECTIONS:
            break
        pair = _PAIR.fullmatch(line)
        if pair is not None and not line.startswith((";", "#")):
            name, value = (_ESCAPED.sub(r"\1", part) for part in pair.groups())
            tags[name] = value
    return tags


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
