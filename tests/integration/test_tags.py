"""Tags of clips through the real ffmpeg: every character kept, and kept by a remux."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.media import video
from lynx_engine.media.ffmetadata import read_ffmetadata, write_ffmetadata
from lynx_engine.media.tags import check_tags, read_tags
from lynx_engine.media.video import ClipFormat, decode_clip, encode_clip, find_ffmpeg
from lynx_engine.provenance.labels import job_id_in, tags_of
from lynx_engine.shapes import FrameSize
from tests.support.jobs import make_job

CLIP = ClipFormat(frames=2, fps=8, size=FrameSize(16, 16), codec="h264", crf=18)
FRAMES = np.arange(2 * 16 * 16 * 3, dtype=np.uint8).reshape(2, 16, 16, 3)
HOSTILE = [
    "a=b; c#d \\e \"quoted\" 'and' so\non\r\nand \\\\ on\\",
    "</script><script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "\x1b[31mred\x1b[0m \x07\x08\x7f\x85",
    "\u202eright to left\u202c \u200bzero\u200dwidth\ufeff \u2028\u2029",
    "😀 family 👩\u200d👩\u200d👧 \U0010ffff e\u0301",
    "[STREAM]\ntitle=other\n[CHAPTER]\n;FFMETADATA1\n#no",
    "一只狗在沙滩上奔跑" * 444,
    "\x01" * 4000,
    "\\" * 4000,
]


def clip_with(tags: dict[str, str], folder: Path, name: str = "clip.mp4") -> Path:
    path = folder / name
    encode_clip(FRAMES, path, CLIP, tags)
    return path


def remuxed(path: Path, name: str) -> Path:
    copy = path.with_name(name)
    command = [find_ffmpeg(), "-y", "-v", "error", "-i", str(path), "-c", "copy", str(copy)]
    subprocess.run(command, check=True)
    return copy


@pytest.mark.parametrize("prompt", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_prompt_is_read_back_exactly_and_survives_a_remux(
    prompt: str, tmp_path: Path
) -> None:
    job = make_job(prompt=prompt[:4000])
    tags = tags_of(job, "Ünïcode & Söhne; = #1")
    path = clip_with(tags, tmp_path)
    check_tags(path, tags)
    read = read_tags(path)
    assert {name: read[name] for name in tags} == tags
    assert json.loads(read["comment"])["prompt"] == job.prompt
    copy = read_tags(remuxed(path, "copy.mp4"))
    assert {name: copy[name] for name in ("title", "comment")} == {
        name: tags[name] for name in ("title", "comment")
    }
    assert job_id_in(copy) == job.job_id


def test_other_containers_keep_the_job_id_too(tmp_path: Path) -> None:
    job = make_job()
    path = clip_with(tags_of(job, "me"), tmp_path)
    for name in ("copy.mkv", "copy.mov"):
        copy = remuxed(path, name)
        assert job_id_in(read_tags(copy)) == job.job_id
        assert decode_clip(copy).frames_digest == decode_clip(path).frames_digest


# Any text that can be written, as the test of what is refused says; a prompt stands in JSON.
_TEXT = st.text(
    st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1
).filter(lambda text: not text.endswith("\\"))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(_TEXT, _TEXT, max_size=5))
def test_any_text_comes_back_from_ffmpegs_text_form(tags: dict[str, str]) -> None:
    assert read_ffmetadata(write_ffmetadata(tags)) == tags


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.lists(_TEXT, min_size=30, max_size=60))
def test_any_text_comes_back_from_an_mp4(texts: list[str]) -> None:
    # Many in one file: a program has to be started for each.
    tags = {f"text-{number}": text for number, text in enumerate(texts)}
    with tempfile.TemporaryDirectory() as folder:
        path = clip_with(tags, Path(folder))
        check_tags(path, tags)
        assert read_tags(path).items() >= tags.items()


def test_same_frames_and_tags_give_the_same_bytes_and_no_version_of_the_encoder(
    tmp_path: Path,
) -> None:
    tags = tags_of(make_job(), "me")
    first = clip_with(tags, tmp_path).read_bytes()
    assert clip_with(tags, tmp_path).read_bytes() == first
    assert b"Lavf" not in first
    other = clip_with(tags | {"title": "other"}, tmp_path)
    assert other.read_bytes() != first
    assert set(read_tags(other)) == {
        *tags, "major_brand", "minor_version", "compatible_brands",
    }  # fmt: skip


def test_prompt_stands_in_no_command_that_other_users_could_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = tmp_path / "ffmpeg"
    spy.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\nexec {find_ffmpeg()} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setattr(video, "find_ffmpeg", lambda: str(spy))
    path = clip_with(tags_of(make_job(prompt="A secret walk."), "me"), tmp_path)
    assert "-map_metadata 1" in (tmp_path / "said").read_text()
    assert "secret" not in (tmp_path / "said").read_text()
    assert "secret" in read_tags(path)["comment"]


@pytest.mark.parametrize("name", ["title", "comment", "AIGC"])
def test_clip_that_lost_a_tag_is_a_bad_clip(name: str, tmp_path: Path) -> None:
    tags = tags_of(make_job(), "me")
    kept = {other: text for other, text in tags.items() if other != name}
    path = clip_with(kept, tmp_path)
    check_tags(path, kept)
    with pytest.raises(RowError, match=f"has lost its tag '{name}'") as caught:
        check_tags(path, tags)
    assert caught.value.code is ErrorCode.BAD_CLIP
    changed = clip_with(tags | {name: tags[name][:-1]}, tmp_path)
    with pytest.raises(RowError, match=f"has lost its tag '{name}'"):
        check_tags(changed, tags)


@pytest.mark.parametrize("text", ["a\0b", "half \ud83d", "back\\", "re\rturn"])
def test_text_that_ffmpeg_cannot_keep_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"NUL|surrogate|ends in a backslash"):
        clip_with({"title": text}, tmp_path)


def test_what_is_no_clip_has_no_tags(tmp_path: Path) -> None:
    for content in (b"", b"text", b"\0\0\0\x10ftypisom"):
        path = tmp_path / "no.mp4"
        path.write_bytes(content)
        with pytest.raises(RowError, match="cannot be read") as caught:
            read_tags(path)
        assert caught.value.code is ErrorCode.BAD_CLIP
        with pytest.raises(RowError, match="has lost"):
            check_tags(path, {"title": "x"})


def test_file_named_as_a_protocol_is_still_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = tags_of(make_job(), "me")
    clip_with(tags, tmp_path).rename(tmp_path / "concat:a|b.mp4")
    monkeypatch.chdir(tmp_path)
    assert read_tags(Path("concat:a|b.mp4"))["title"] == tags["title"]
