"""Reads the tags of clips: through the ffmpeg program, or by a look at the head of an own clip.

What the tags say is the business of `provenance.labels`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.media.ffmetadata import read_ffmetadata
from lynx_engine.media.video import find_ffmpeg

_TIMEOUT_S = 60.0
_STDERR_TAIL = 400


def read_tags(path: Path) -> dict[str, str]:
    """Return a file's tags by name, exactly as they were written; the container's own among them.

    Args:
        path: A clip from anywhere, remuxed or not.

    Raises:
        RowError: With code `bad_clip` if ffmpeg cannot read the file, `encoder` without ffmpeg.
    """
    command = [find_ffmpeg(), "-hide_banner", "-loglevel", "error", "-nostdin"]
    # `file:`, as ffmpeg takes a name such as "concat:..." for more than a name.
    command += ["-i", f"file:{path}", "-f", "ffmetadata", "-map_metadata", "0"]
    # Otherwise ffmpeg adds a tag with its own version.
    command += ["-fflags", "+bitexact", "pipe:"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            process_group=0,
        )
    except OSError as error:
        raise RowError(
            ErrorCode.ENCODER,
            f"{command[0]} cannot be run ({error.strerror}). Install ffmpeg anew, or take it off "
            "PATH.",
        ) from None
    except subprocess.TimeoutExpired:
        raise _unreadable(path, f"ffmpeg did not finish in {_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise _unreadable(path, done.stderr.decode(errors="replace").strip()[-_STDERR_TAIL:])
    return read_ffmetadata(done.stdout)


def _unreadable(path: Path, said: str) -> RowError:
    return RowError(ErrorCode.BAD_CLIP, f"the tags of {path} cannot be read: {said}")


def check_tags(path: Path, tags: Mapping[str, str]) -> None:
    """Find every tag in the head of a clip that was just encoded, in less than a millisecond.

    Asking ffmpeg would cost a process for each row.

    Raises:
        RowError: With code `bad_clip`, if a name or its text is not there.
    """
    head = _head_of(path) if tags else b""
    for name, text in tags.items():
        if name.encode() not in head or text.encode() not in head:
            raise _lost(name)


def _lost(name: str) -> RowError:
    return RowError(
        ErrorCode.BAD_CLIP,
        f"the clip has lost its tag '{name}'. Install another ffmpeg; 5.1 and later keep it.",
    )


def _head_of(path: Path) -> bytes:
    """Return the `moov` box of an mp4 (ISO/IEC 14496-12, 4.2), b"" if there is none."""
    with path.open("rb") as file:
        while len(header := file.read(8)) == 8:
            size = int.from_bytes(header[:4])
            if header[4:] == b"moov":
                return file.read(size - 8)
            if size < 8:  # to the end of the file, or a box of 4 GB and more: media data
                break
            file.seek(size - 8, 1)
    return b""
