"""Clips through the real ffmpeg: written, decoded again, and refused for every kind of fault."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.media import video
from lynx_engine.media.video import ClipFormat, check_clip, decode_clip, encode_clip, find_ffmpeg
from lynx_engine.shapes import FrameSize

CLIP = ClipFormat(frames=9, fps=8, size=FrameSize(64, 48), codec="h264", crf=10)


def moving_frames(frames: int = 9) -> npt.NDArray[np.uint8]:
    """A smooth colour gradient that moves one pixel a frame: RGB, uint8, [F, 48, 64, 3]."""
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack(
        [
            np.stack([rows * 5, (columns + f) * 3, 255 - rows * 3 - f], axis=-1).astype(np.uint8)
            for f in range(frames)
        ]
    )


def written(tmp_path: Path, frames: npt.NDArray[np.uint8] | None = None) -> Path:
    path = tmp_path / "clip.mp4"
    encode_clip(moving_frames() if frames is None else frames, path, CLIP)
    return path


def fault(path: Path, clip: ClipFormat = CLIP) -> str:
    with pytest.raises(RowError) as caught:
        check_clip(path, clip)
    assert caught.value.code is ErrorCode.BAD_CLIP
    return str(caught.value)


def test_checked_clip_tells_what_was_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path)
    facts = check_clip(path, CLIP)
    assert (facts.frames, facts.fps, facts.size) == (9, 8.0, FrameSize(64, 48))
    assert facts.bytes == path.stat().st_size
    assert facts.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_decoded_picture_is_the_one_that_was_encoded(tmp_path: Path) -> None:
    path = written(tmp_path)
    command = [find_ffmpeg(), "-v", "error", "-i", str(path)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    decoded = np.frombuffer(raw, np.uint8).reshape(9, 48, 64, 3).astype(int)
    # Chroma at half resolution and crf 10 cost a few grey levels; a wrong colour matrix costs tens.
    assert np.abs(decoded - moving_frames()).mean() < 3


def test_frames_digest_is_over_the_decoded_planes(tmp_path: Path) -> None:
    path = written(tmp_path)
    command = [find_ffmpeg(), "-v", "error", "-i", str(path)]
    command += ["-f", "rawvideo", "-pix_fmt", "yuv420p", "pipe:"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    assert decode_clip(path).frames_digest == hashlib.sha256(raw).hexdigest()


def test_frames_digest_survives_a_remux(tmp_path: Path) -> None:
    path = written(tmp_path)
    copy = tmp_path / "copy.mkv"
    command = [find_ffmpeg(), "-v", "error", "-i", str(path), "-c", "copy", str(copy)]
    subprocess.run(command, check=True)
    assert copy.read_bytes() != path.read_bytes()
    assert decode_clip(copy).frames_digest == decode_clip(path).frames_digest


def test_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    first = written(tmp_path).read_bytes()
    assert written(tmp_path).read_bytes() == first


def test_short_clip_is_refused_with_both_counts(tmp_path: Path) -> None:
    path = written(tmp_path, moving_frames(8))
    assert fault(path) == (
        "the clip decodes to 8 frames of 64x48 at 8 fps; 9 of 64x48 at 8 were asked for."
    )


def test_wrong_rate_and_size_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert "at 8 fps; 9 of 64x48 at 16" in fault(path, replace(CLIP, fps=16))
    assert "of 64x48 at 8 fps; 9 of 48x64" in fault(path, replace(CLIP, size=FrameSize(48, 64)))


def test_blank_and_frozen_clips_are_refused(tmp_path: Path) -> None:
    black = np.zeros((9, 48, 64, 3), np.uint8)
    assert fault(written(tmp_path, black)) == "every frame of the clip is one even colour."
    still = np.repeat(moving_frames(1), 9, axis=0)
    encode_clip(still, tmp_path / "still.mp4", replace(CLIP, crf=0))
    assert "frozen" in fault(tmp_path / "still.mp4")


def test_clip_cut_at_any_length_is_refused(tmp_path: Path) -> None:
    data = written(tmp_path).read_bytes()
    cut = tmp_path / "cut.mp4"
    for length in range(0, len(data) - 1, max(1, len(data) // 40)):
        cut.write_bytes(data[:length])
        assert fault(cut)


def test_encoder_that_cannot_write_is_told_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(RowError) as caught:
        encode_clip(moving_frames(), tmp_path / "no" / "folder.mp4", CLIP)
    assert caught.value.code is ErrorCode.ENCODER
    kept = pickle.loads(pickle.dumps(caught.value))  # as it travels from a device process
    assert "No such file or directory" in kept.stderr
    assert caught.value.transient
    assert "No such file or directory" in str(caught.value)


def test_full_disk_has_a_code_of_its_own(tmp_path: Path) -> None:
    full = tmp_path / "full.mp4"
    full.symlink_to("/dev/full")
    with pytest.raises(RowError) as caught:
        encode_clip(moving_frames(), full, CLIP)
    assert caught.value.code is ErrorCode.DISK


def test_version_of_the_encoder_is_what_it_tells() -> None:
    told = subprocess.run(
        [video.find_ffmpeg(), "-version"], capture_output=True, text=True, check=True
    ).stdout
    assert video.ffmpeg_version()
    assert told.startswith(f"ffmpeg version {video.ffmpeg_version()} ")


def test_stuck_encoder_is_ended_at_its_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = tmp_path / "ffmpeg"
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(0o755)
    monkeypatch.setattr(video, "find_ffmpeg", lambda: str(stuck))
    monkeypatch.setattr(video, "ENCODE_TIMEOUT_S", 0.3)
    with pytest.raises(RowError, match="did not finish") as caught:
        encode_clip(moving_frames(), tmp_path / "clip.mp4", CLIP)
    assert caught.value.code is ErrorCode.ENCODER


def test_ffmpeg_of_the_system_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "ffmpeg"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    find_ffmpeg.cache_clear()
    try:
        assert find_ffmpeg() == str(own)
        own.unlink()
        find_ffmpeg.cache_clear()
        assert "imageio_ffmpeg" in find_ffmpeg()
    finally:
        find_ffmpeg.cache_clear()
