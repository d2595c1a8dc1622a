"""How much room a plan needs, and what is said when there is not enough."""

from __future__ import annotations

import shutil
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from lynx_engine import folders
from lynx_engine.cli.render import RunOptions, render_manifest
from lynx_engine.diskspace import (
    RECORD_BYTES,
    bytes_in_words,
    check_space,
    estimate_bytes,
    free_bytes,
    measured_sizes,
)
from lynx_engine.errors import PausedError
from lynx_engine.jobs import PastResult
from lynx_engine.provenance.past import read_history
from lynx_engine.provenance.store import write_part
from lynx_engine.shapes import FrameSize
from tests.support.jobs import astronaut, make_job, plan_of, record_of

Usage = namedtuple("Usage", "total used free")


def past_of(folder: Path, sizes: dict[int, int]) -> list[PastResult]:
    """One rendered clip for each seed, of that many bytes, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, size in sizes.items():
        record = record_of(make_job(seed=seed))
        (folder / record.clip).write_bytes(b"." * size)
        write_part(folder.parent / f"{folder.name}-log", record)
    return list(read_history(folder.parent / f"{folder.name}-log").by_job.values())


def test_like_clips_of_the_campaign_are_the_measure(tmp_path: Path) -> None:
    past = past_of(tmp_path, {1: 1000, 2: 3000})
    sizes = measured_sizes(past, tmp_path)
    assert list(sizes.values()) == [2000]
    plan = plan_of(make_job(seed=3), make_job(seed=4), make_job(seed=5))
    # Three clips, three records, and the draft that one device writes.
    assert estimate_bytes(plan, sizes) == 3 * 2000 + 3 * RECORD_BYTES + 2000
    assert estimate_bytes(plan, sizes, devices=2) == 3 * 2000 + 3 * RECORD_BYTES + 2 * 2000


@pytest.mark.parametrize(
    "change",
    [{"frames": 13}, {"size": FrameSize(64, 80)}, {"crf": 20}, {"variant": "tiny_lite"}],
)
def test_clips_of_another_form_are_no_measure(tmp_path: Path, change: dict[str, object]) -> None:
    sizes = measured_sizes(past_of(tmp_path, {1: 10_000_000}), tmp_path)
    job = make_job(seed=3)
    assert estimate_bytes(plan_of(job), sizes) > 10_000_000
    assert estimate_bytes(plan_of(replace(job, **change)), sizes) < 100_000


def test_clip_that_is_gone_is_no_measure(tmp_path: Path) -> None:
    past = past_of(tmp_path, {1: 1000})
    for clip in tmp_path.iterdir():
        clip.unlink()
    assert measured_sizes(past, tmp_path) == {}


def test_unmeasured_clip_is_guessed_by_its_pixels_and_crf() -> None:
    job = make_job(frames=81, size=FrameSize(832, 480))
    pixels = 81 * 832 * 480

    def guess(crf: int) -> int:
        # Without the record; the draft counts as a second clip, each with 4 kB around the frames.
        return (estimate_bytes(plan_of(replace(job, crf=crf)), {}) - RECORD_BYTES) // 2 - 4000

    assert guess(18) == pytest.approx(0.25 * pixels / 8, abs=2)
    assert guess(14) == pytest.approx(0.5 * pixels / 8, abs=2)
    assert guess(51) == pytest.approx(0.02 * pixels / 8, abs=2)
    assert guess(0) == pytest.approx(0.25 * 2**4.5 * pixels / 8, abs=2)


def test_nothing_to_render_needs_nothing() -> None:
    assert estimate_bytes(plan_of(), {}) == 0


def test_full_disk_is_told_before_the_run_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "outputs" / "trial"
    past = past_of(folder / "clips", {1: 1_000_000})
    plan = plan_of(*(make_job(seed=seed) for seed in range(2, 5)))
    needed = 4_000_000 + 3 * RECORD_BYTES
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: Usage(0, 0, needed))
    check_space(plan, folder, ("cpu",), past)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: Usage(0, 0, needed - 1))
    with pytest.raises(PausedError) as caught:
        check_space(plan, folder, ("cpu",), past)
    assert str(caught.value) == (
        f"{folder} needs about 4.1 MB for 3 clips, 4.1 MB is free in {folder}. Make room, or "
        "render fewer rows with --limit. LYNX_DISK_CHECK=false renders until the disk is full."
    )
    assert caught.value.exit_code == 5


def test_free_room_is_asked_where_the_folder_will_be(tmp_path: Path) -> None:
    place, free = free_bytes(tmp_path / "not" / "yet")
    assert place == tmp_path
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (9_940, "9.9 kB"),
        (9_960, "10 kB"),
        (999_400, "999 kB"),
        (999_600, "1.0 MB"),
        (3_240_000_000, "3.2 GB"),
        (88e9, "88 GB"),
        (2.5e12, "2.5 TB"),
    ],
)
def test_sizes_are_said_as_people_say_them(count: float, words: str) -> None:
    assert bytes_in_words(count) == words


MANIFEST = """\
campaign: trial
defaults: {variant: tiny_lite}
subjects: {one: {image: one.png, consent: {basis: public-domain}}}
prompts: {wave: A person waves.}
matrix: [{subject: one, prompt: wave, seed: 1..3}]
"""


def test_render_stops_before_any_work_and_the_setting_lets_it_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lynx.toml").touch()
    (tmp_path / "m.yaml").write_text(MANIFEST)
    shutil.copyfile(astronaut(), tmp_path / "one.png")
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: Usage(0, 0, 1000))
    asked: list[object] = []
    monkeypatch.setattr("flows.run.render", lambda plan, **_: asked.append(plan) or sys.exit(9))
    options = RunOptions(
        skip_bad_rows=False,
        devices="cpu",
        cluster="",
        in_process=True,
        low_vram=False,
        quiet=True,
        as_json=False,
    )

    def render() -> None:
        render_manifest(tmp_path / "m.yaml", options, only=[], limit=None, retry=None)

    with pytest.raises(PausedError, match="3 clips, 1\\.0 kB is free"):
        render()
    assert asked == []
    assert not (tmp_path / "outputs").exists()
    monkeypatch.setenv("LYNX_DISK_CHECK", "false")
    with pytest.raises(SystemExit, match="9"):
        render()
    assert len(asked) == 1
