"""Frames to a checked mp4 and back, through the ffmpeg program. It knows no models.

A clip counts only after it was decoded again: a killed encoder leaves a file that plays (81 of 200
kills), and a short one is as wrong as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from lynx_engine.digest import digest_file
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.media.ffmetadata import write_ffmetadata
from lynx_engine.results import ClipFacts
from lynx_engine.shapes import FrameSize
from lynx_engine.tail import last_lines

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")

ENCODE_TIMEOUT_S = 600.0
# Levels of luma (0 to 255): an even picture, whatever its colour, has a spread of 0 or 1 after
# the encoder's rounding.
BLANK_LUMA_SPREAD = 2.0
_STDERR_TAIL = 400
_VERSION_TIMEOUT_S = 10.0
_VERSION = re.compile(rb"ffmpeg version (\S{1,80})")
_FULL_DISK = ("No space left on device", "Disk quota exceeded", "Read-only file system")


@dataclass(frozen=True, slots=True)
class ClipFormat:
    """What a clip must be.

    Attributes:
        frames: F.
        fps: Frames a second.
        size: Width and height in pixels.
        codec: `h264`.
        crf: Constant rate factor, 0 (lossless) to 51.
    """

    frames: int
    fps: int
    size: FrameSize
    codec: str
    crf: int


_ENCODERS = {"h264": "libx264"}


@cache
def find_ffmpeg() -> str:
    """Return the ffmpeg program: the system's, else the binary inside imageio-ffmpeg.

    Raises:
        RowError: With code `encoder`, if neither is there.
    """
    system = shutil.which("ffmpeg")
    if system is not None:
        return system
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise RowError(
            ErrorCode.ENCODER,
            "ffmpeg was not found. Install ffmpeg, or `pip install imageio-ffmpeg`.",
        ) from error


@cache
def ffmpeg_version() -> str:
    """Return the version that the ffmpeg program tells, "" if it tells none; asked once a process.

    A record wants it; a clip that is whole must not fail over it.
    """
    try:
        said = subprocess.run(
            [find_ffmpeg(), "-hide_banner", "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
            process_group=0,
        ).stdout
    except (OSError, RowError, subprocess.TimeoutExpired):
        return ""
    found = _VERSION.match(said)
    return found[1].decode("ascii", errors="replace") if found else ""


NO_TAGS: Mapping[str, str] = {}


def encode_clip(
    frames: npt.NDArray[np.uint8],
    path: Path,
    clip: ClipFormat,
    tags: Mapping[str, str] = NO_TAGS,
) -> None:
    """Write frames to `path` and force them to disk.

    The same frames and tags give the same bytes: one thread, no dates or versions in the file.

    Args:
        frames: RGB, uint8, [F, H, W, 3].
        path: The file; what is there is overwritten.
        clip: What it must be.
        tags: Metadata of the file, by name.

    Raises:
        OSError: If there is no room for the tags in the folder of temp files.
        RowError: With code `encoder` (ffmpeg's own words follow) or `disk`.
        ValueError: If ffmpeg cannot keep a tag's text, as `write_ffmetadata` says.
    """
    import ffmpeg
    import numpy as np

    command = (
        ffmpeg.input(
            "pipe:", format="rawvideo", pix_fmt="rgb24", s=str(clip.size), framerate=clip.fps
        )
        # Tagged BT.709 in full: players guess BT.601 for small frames and shift the skin tones.
        .filter("scale", out_color_matrix="bt709", out_range="tv")
        .output(
            str(path),
            vcodec=_ENCODERS[clip.codec],
            crf=clip.crf,
            pix_fmt="yuv420p",
            colorspace="bt709",
            color_primaries="bt709",
            color_trc="bt709",
            threads=1,
            # Without use_metadata_tags, only the names that iTunes knows are written.
            movflags="+faststart+use_metadata_tags",
            **{"flags:v": "+bitexact", "fflags": "+bitexact"},
        )
        .global_args("-hide_banner", "-loglevel", "error", "-nostdin")
        .compile(cmd=find_ffmpeg(), overwrite_output=True)
    )
    # A nameless file: a prompt in the command could be read by every user of the machine.
    with tempfile.TemporaryFile() as metadata:
        metadata.write(write_ffmetadata(tags))
        metadata.seek(0)
        descriptor = metadata.fileno()
        # ffmpeg-python knows no input without a stream; inputs stand before the filter.
        at = command.index("-filter_complex")
        command[at:at] = ["-f", "ffmetadata", "-i", f"pipe:{descriptor}", "-map_metadata", "1"]
        # As plain bytes: subprocess would count a memoryview of four axes by its first one.
        _run_encoder(command, np.ascontiguousarray(frames).data.cast("B"), descriptor)
    with path.open("rb") as file:
        os.fsync(file.fileno())


# ffmpeg gets a process group of its own: Ctrl-C in the terminal must not end it under a row that
# is given time to finish.


def _run_encoder(command: list[str], pixels: memoryview, metadata: int) -> None:
    try:
        done = subprocess.run(
            command,
            input=pixels,
            capture_output=True,
            timeout=ENCODE_TIMEOUT_S,
            check=False,
            process_group=0,
            pass_fds=(metadata,),
        )
    except OSError as error:
        raise _cannot_run(command, error) from None
    except subprocess.TimeoutExpired as late:
        raise RowError(
            ErrorCode.ENCODER,
            f"ffmpeg did not finish in {ENCODE_TIMEOUT_S:.0f} s.",
            transient=True,
            stderr=last_lines((late.stderr or b"").decode(errors="replace")),
        ) from None
    if done.returncode != 0:
        stderr = last_lines(done.stderr.decode(errors="replace"))
        said = stderr[-_STDERR_TAIL:]
        if any(sign in said for sign in _FULL_DISK):
            raise RowError(ErrorCode.DISK, f"ffmpeg could not write the clip: {said}")
        raise RowError(
            ErrorCode.ENCODER,
            f"ffmpeg exited with {done.returncode}: {said}",
            transient=True,
            stderr=stderr,
        )


def _cannot_run(command: list[str], error: OSError) -> RowError:
    return RowError(
        ErrorCode.ENCODER,
        f"{command[0]} cannot be run ({error.strerror}). Install ffmpeg anew, or take it off PATH.",
    )


def check_clip(path: Path, clip: ClipFormat) -> ClipFacts:
    """Decode a clip from start to end and compare it with what it must be.

    Raises:
        RowError: With code `bad_clip`, if frame count, size or rate differ, if ffmpeg reports
            any damage, or if the picture is blank or frozen.
    """
    decoded = decode_clip(path)
    wanted = (clip.frames, clip.size, float(clip.fps))
    got = (decoded.frames, decoded.size, decoded.fps)
    if got != wanted:
        raise RowError(
            ErrorCode.BAD_CLIP,
            f"the clip decodes to {got[0]} frames of {got[1]} at {got[2]:g} fps; "
            f"{wanted[0]} of {wanted[1]} at {wanted[2]:g} were asked for.",
        )
    if decoded.luma_spread < BLANK_LUMA_SPREAD:
        raise RowError(ErrorCode.BAD_CLIP, "every frame of the clip is one even colour.")
    if decoded.frames > 1 and decoded.distinct_frames == 1:
        raise RowError(ErrorCode.BAD_CLIP, "the clip is frozen: every frame is the same.")
    return ClipFacts(
        bytes=path.stat().st_size,
        digest=digest_file(path),
        frames_digest=decoded.frames_digest,
        frames=decoded.frames,
        fps=decoded.fps,
        size=decoded.size,
    )


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """What decoding found.

    Attributes:
        frames: Frames counted.
        fps: Frames a second, as the file declares.
        size: Width and height in pixels.
        frames_digest: sha256 over the decoded planes (4:2:0, 8 bits), equal after a remux.
        distinct_frames: Number of different frames.
        luma_spread: Largest standard deviation of luma within one frame, 0 to 255.
    """

    frames: int
    fps: float
    size: FrameSize
    frames_digest: str
    distinct_frames: int
    luma_spread: float


def decode_clip(path: Path) -> DecodedClip:
    """Decode every frame of a clip.

    Raises:
        RowError: With code `bad_clip`, if ffmpeg cannot decode it or reports damage on the way.
    """
    import ffmpeg

    command = (
        ffmpeg.input(str(path), err_detect="explode")
        .output(
            "pipe:", format="yuv4mpegpipe", pix_fmt="yuv420p", fps_mode="passthrough", strict=-1
        )
        .global_args("-hide_banner", "-loglevel", "error", "-nostdin", "-xerror")
        .compile(cmd=find_ffmpeg())
    )
    return _decode(command, _read_y4m)


def read_frames(path: Path) -> npt.NDArray[np.uint8]:
    """Return every frame of a clip as a player shows it: RGB, uint8, [F, H, W, 3].

    Raises:
        RowError: With code `bad_clip`, if ffmpeg cannot decode it or reports damage on the way.
    """
    import ffmpeg

    command = (
        # One thread: others render meanwhile.
        ffmpeg.input(str(path), err_detect="explode", threads=1)
        # By default, swscale's rounding makes the picture darker by 1 level of 255.
        .filter(
            "scale",
            in_color_matrix="bt709",
            in_range="tv",
            out_range="pc",
            flags="bicubic+accurate_rnd+full_chroma_int",
        )
        # Each picture of a PPM stream tells its own size.
        .output("pipe:", format="image2pipe", vcodec="ppm", pix_fmt="rgb24", fps_mode="passthrough")
        .global_args("-hide_banner", "-loglevel", "error", "-nostdin", "-xerror")
        .compile(cmd=find_ffmpeg())
    )
    return _decode(command, _read_ppm)


def _decode(command: list[str], read: Callable[[IO[bytes]], T | None]) -> T:
    """Let ffmpeg decode, and `read` what it writes; None from `read` means that it broke off."""
    # Errors go to a file: a damaged clip can fill a pipe that nobody reads yet.
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, process_group=0
            )
        except OSError as error:
            raise _cannot_run(command, error) from None
        with process, process.stdout or contextlib.nullcontext(io.BytesIO()) as stream:
            decoded = read(stream)
        failed = process.returncode != 0
        errors.seek(0)
        stderr = last_lines(errors.read().decode(errors="replace"))
    if failed or stderr or decoded is None:
        said = stderr[-_STDERR_TAIL:] or "no frames"
        text = f"the clip does not decode cleanly: {said}"
        raise RowError(ErrorCode.BAD_CLIP, text, stderr=stderr)
    return decoded


_PPM_SIZE = re.compile(rb"(\d+) (\d+)\n")


def _read_ppm(stream: IO[bytes]) -> npt.NDArray[np.uint8] | None:
    """Read a row of PPM pictures of one size (netpbm's ppm(5), 8 bits, as ffmpeg writes them)."""
    import numpy as np

    # One growing buffer: pictures that are joined at the end would be held twice.
    pixels = bytearray()
    sizes: set[tuple[int, int]] = set()
    while stream.readline(8) == b"P6\n":
        size = _PPM_SIZE.fullmatch(stream.readline(32))
        if size is None or stream.readline(8) != b"255\n":
            return None
        width, height = (int(side) for side in size.groups())
        picture = stream.read(width * height * 3)
        sizes.add((height, width))
        if len(picture) != width * height * 3 or len(sizes) > 1:
            return None
        pixels += picture
    if not sizes:
        return None
    ((height, width),) = sizes
    return np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3)


_Y4M_HEADER = re.compile(rb"YUV4MPEG2 W(\d+) H(\d+) F(\d+):(\d+) ")


def _read_y4m(stream: IO[bytes]) -> DecodedClip | None:
    """Read a YUV4MPEG2 stream (mjpegtools' yuv4mpeg(5)); None if it breaks off."""
    import numpy as np

    header = _Y4M_HEADER.match(stream.readline(200))
    if header is None:
        return None
    width, height, rate, scale = (int(group) for group in header.groups())
    luma_bytes = width * height
    frame_bytes = luma_bytes + 2 * ((width + 1) // 2) * ((height + 1) // 2)
    digest = hashlib.sha256()
    distinct: set[bytes] = set()
    frames, spread = 0, 0.0
    while stream.readline(200).startswith(b"FRAME"):
        frame = stream.read(frame_bytes)
        if len(frame) != frame_bytes:
            return None
        frames += 1
        digest.update(frame)
        distinct.add(hashlib.sha256(frame).digest())
        spread = max(spread, float(np.frombuffer(frame, np.uint8, luma_bytes).std()))
    return DecodedClip(
        frames=frames,
        fps=rate / scale,
        size=FrameSize(width, height),
        frames_digest=digest.hexdigest(),
        distinct_frames=len(distinct),
        luma_spread=spread,
    )
