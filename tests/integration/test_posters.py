"""Posters: made of what was decoded, in place beside their clips, gone with them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lynx_engine import worker
from lynx_engine.cli.clean import Cleaning, clean_campaign
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.forgetting import find_kept, forget
from lynx_engine.jobs import RenderJob
from lynx_engine.media.poster import write_poster
from lynx_engine.media.video import read_frames
from lynx_engine.orders import ClipDraft, RenderTask, setup_for
from lynx_engine.pool import InProcessPool
from lynx_engine.publisher import Publisher
from lynx_engine.rendering import OnStage
from lynx_engine.report import posters
from lynx_engine.results import Withheld
from lynx_engine.settings import Settings
from lynx_engine.shapes import FrameSize
from lynx_engine.worker import DeviceWorker
from tests.faults.disk import CAMPAIGN, run_trial
from tests.integration.test_campaign_gate import gated, likeness
from tests.support.jobs import make_sleeper_job, plan_of, planned


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(workspace=tmp_path, cache=tmp_path / "cache")


def render(settings: Settings, *jobs: RenderJob, pool: InProcessPool | None = None) -> Path:
    """Render with the null renderer and the real encoder; return the campaign's folder."""
    run_trial(settings, pool or InProcessPool(settings, "cpu"), plan_of(*jobs))
    return settings.campaign_dir(CAMPAIGN)


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir()) if folder.is_dir() else []


def test_poster_is_the_sharpest_of_three_frames_around_the_middle(tmp_path: Path) -> None:
    frames = np.full((20, 720, 1280, 3), 90, np.uint8)
    frames[0, ::2] = 255  # sharp, and too early
    frames[13] = [200, 30, 30]
    frames[13, ::40] = 0
    path = tmp_path / "poster.jpg"
    write_poster(frames, path)
    with Image.open(path) as poster:
        assert (poster.format, poster.size) == ("JPEG", (480, 270))
        red, green, _ = np.asarray(poster.convert("RGB")).mean(axis=(0, 1))
        assert red - green > 100
        assert not poster.getexif()
        assert set(poster.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_poster_of_still_frames_is_the_middle_one_and_small_frames_are_not_blown_up(
    tmp_path: Path,
) -> None:
    frames = np.stack([np.full((16, 32, 3), 10 * n, np.uint8) for n in range(9)])
    write_poster(frames, tmp_path / "poster.jpg")
    with Image.open(tmp_path / "poster.jpg") as poster:
        assert poster.size == (32, 16)
        assert abs(np.asarray(poster).mean() - 40) < 2
    write_poster(frames[:1], tmp_path / "one.jpg")


def test_poster_takes_no_place_that_is_taken(tmp_path: Path) -> None:
    target = tmp_path / "other"
    (tmp_path / "poster.jpg").symlink_to(target)
    with pytest.raises(FileExistsError):
        write_poster(np.zeros((1, 16, 16, 3), np.uint8), tmp_path / "poster.jpg")
    assert not target.exists()


def test_each_clip_gets_a_poster_that_shows_it(settings: Settings) -> None:
    jobs = [make_sleeper_job("", seed=seed, size=FrameSize(64, 32)) for seed in (1, 2)]
    folder = render(settings, *jobs)
    stems = sorted(job.clip_name.removesuffix(".mp4") for job in jobs)
    assert names(folder / "clips") == names(folder / "posters") == stems
    assert list((folder / ".drafts").iterdir()) == []
    clip, poster = (next((folder / place).iterdir()) for place in ("clips", "posters"))
    assert poster.stat().st_mode == clip.stat().st_mode
    with Image.open(poster) as picture:
        assert picture.size == (64, 32)


def test_poster_that_cannot_be_made_or_placed_is_a_warning(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("no JPEG here")

    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr(worker, "write_poster", refuse)
        folder = render(settings, make_sleeper_job("", seed=1))
    assert "no poster of" in caplog.text
    assert names(folder / "posters") == []
    (folder / "posters").write_text("a file in the way")
    with caplog.at_level(logging.WARNING):
        render(settings, make_sleeper_job("", seed=2))
    assert len(names(folder / "clips")) == 2
    assert list((folder / ".drafts").iterdir()) == []


class _Scored(InProcessPool):
    """Renders really; scores are those of the script."""

    def __init__(self, settings: Settings, *means: float) -> None:
        super().__init__(settings, "cpu")
        self._means = list(means)

    def render(self, device: str, task: RenderTask, on_stage: OnStage) -> ClipDraft:
        draft = super().render(device, replace(task, job=replace(task.job, gate="")), on_stage)
        found = replace(draft.findings, likeness=likeness(self._means.pop(0)))
        return replace(draft, findings=found)


@pytest.mark.parametrize(("means", "shown"), [((0.1, 0.3, 0.2), 1), ((0.3, 0.2, 0.1), 0)])
def test_better_try_replaces_the_poster_and_one_that_is_set_aside_leaves_none(
    settings: Settings, means: tuple[float, ...], shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    write = worker.write_poster

    def kept(frames: np.ndarray, path: Path) -> None:
        write(frames, path)
        made.append(path.read_bytes())

    monkeypatch.setattr(worker, "write_poster", kept)
    job = replace(gated(1), variant="sleeper", prompt="", frames=5, size=FrameSize(32, 32))
    folder = render(settings, job, pool=_Scored(settings, *means))
    assert len(made) == len(set(made)) == 3
    (poster,) = (folder / "posters").iterdir()
    assert poster.read_bytes() == made[shown]
    assert list((folder / ".drafts").iterdir()) == []


def test_run_killed_between_a_better_clip_and_its_poster_leaves_none_of_the_other_try(
    settings: Settings,
) -> None:
    job = replace(gated(1), variant="sleeper", prompt="", frames=5, size=FrameSize(32, 32))
    pool = _Scored(settings, 0.1, 0.3, 0.2)
    folder = settings.campaign_dir(CAMPAIGN)
    left = ""
    with pytest.MonkeyPatch.context() as patch:
        place = Publisher._place_poster  # pyright: ignore[reportPrivateUsage]

        def killed(self: Publisher, clip: str, draft: ClipDraft) -> None:
            nonlocal left
            if names(folder / "posters"):
                left = "a poster of the try before"
            place(self, clip, draft)

        patch.setattr(Publisher, "_place_poster", killed)
        render(settings, job, pool=pool)
    assert len(names(folder / "clips")) == 1
    assert left == ""


def test_half_poster_of_a_killed_report_goes_with_its_clip(settings: Settings) -> None:
    job = make_sleeper_job("", seed=1, subject="host")
    folder = render(settings, job)
    for end in ("0123.draft", "4567.tmp"):
        (folder / "posters" / f".{job.clip_name[:-4]}.jpg.{end}").write_bytes(b"a face")
    assert forget(find_kept(["host"], settings, with_clips=True), settings).sizes == {}
    assert list((folder / "posters").iterdir()) == []


@pytest.mark.parametrize("removed", [True, False])
def test_report_that_is_overtaken_leaves_no_poster_of_a_clip_that_is_gone_or_another(
    settings: Settings, removed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_sleeper_job("", seed=1)
    folder = render(settings, job)
    clip, poster = (next((folder / place).iterdir()) for place in ("clips", "posters"))
    poster.unlink()

    def overtaken(path: Path) -> np.ndarray:
        frames = read_frames(path)
        other = clip.with_suffix(".new")
        other.write_bytes(clip.read_bytes())
        path.unlink() if removed else other.replace(path)
        return frames

    monkeypatch.setattr(posters, "read_frames", overtaken)
    assert posters.make_posters(folder, [job.clip_name]) == frozenset()
    assert list((folder / "posters").iterdir()) == []


def test_clip_that_is_withheld_later_takes_its_poster_with_it(settings: Settings) -> None:
    job = make_sleeper_job("", seed=1)
    folder = render(settings, job)
    publisher = Publisher(folder, run_id="r", key=b"k" * 32)
    publisher.record(planned(job), Withheld("flagged"), started_at=datetime.now(UTC))
    assert names(folder / "clips") == names(folder / "posters") == []


def test_row_whose_process_could_not_tidy_up_leaves_no_draft_and_no_poster(
    settings: Settings,
) -> None:
    folder = settings.campaign_dir(CAMPAIGN)
    seen: list[list[Path]] = []

    class Dying(InProcessPool):
        def render(self, device: str, task: RenderTask, on_stage: OnStage) -> ClipDraft:
            seen.append(list((folder / ".drafts").iterdir()))
            super().render(device, task, on_stage)
            assert task.poster.is_file()
            raise RowError(ErrorCode.WORKER_DIED, "gone")

    render(settings, make_sleeper_job(""), pool=Dying(settings, "cpu"))
    # Before each further attempt, nothing but its own draft is there.
    assert len(seen) > 1
    assert all(len(drafts) == 1 for drafts in seen)
    assert names(folder / "posters") == []


def test_forget_takes_posters_with_their_clips_and_finds_them_without(settings: Settings) -> None:
    mine = [make_sleeper_job("", seed=seed, subject="host") for seed in (1, 2)]
    other = make_sleeper_job("", seed=3, subject="guest")
    folder = render(settings, *mine, other)
    (folder / "clips" / mine[0].clip_name).unlink()
    kept = find_kept(["host"], settings, with_clips=True)
    assert len(kept.clips[CAMPAIGN]) == 3
    assert forget(kept, settings).sizes == {}
    assert names(folder / "clips") == names(folder / "posters") == [other.clip_name[:-4]]


@pytest.mark.parametrize("unrecorded", [False, True])
def test_clean_removes_posters_whose_clip_is_gone_and_no_other(
    settings: Settings, unrecorded: bool, figure: Callable[[str], None]
) -> None:
    jobs = [make_sleeper_job("", seed=seed) for seed in (1, 2, 3)]
    folder = render(settings, *jobs)
    gone, kept, foreign = (job.clip_name[:-4] for job in jobs)
    (folder / "clips" / f"{gone}.mp4").unlink()
    for place in ("clips/{}.mp4", "posters/{}.jpg"):
        (folder / place.format(foreign)).rename(folder / place.format("nobody"))
    (folder / ".drafts" / "left.jpg").write_bytes(b"half")
    cleaning = Cleaning(settings, dry_run=False)
    clean_campaign(cleaning, CAMPAIGN, unrecorded=unrecorded)
    left = [kept] if unrecorded else sorted([kept, "nobody"])
    assert names(folder / "clips") == names(folder / "posters") == left
    assert list((folder / ".drafts").iterdir()) == []
    figure(f"POSTERS strays={len(cleaning.removed)} unrecorded={unrecorded}")


def test_worker_makes_the_poster_beside_the_draft_and_tells_what_it_marked(
    settings: Settings, tmp_path: Path
) -> None:
    device = DeviceWorker(setup_for(settings, "cpu", "cpu", expendable=False))
    job = make_sleeper_job("", label="eu")
    draft = device.render(
        RenderTask(job, None, tmp_path / "a.mp4", tags={"title": "a"}), lambda *_: None
    )
    assert draft.poster == tmp_path / "a.jpg"
    assert draft.marks.labels == ("tags", "eu")
    plain = device.render(
        RenderTask(replace(job, label="none"), None, tmp_path / "b.mp4"), lambda *_: None
    )
    assert plain.marks.labels == ()


def test_encoder_that_loses_tags_fails_the_row_and_leaves_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = worker.encode_clip
    monkeypatch.setattr(worker, "encode_clip", lambda *a: encode(*a[:3]))
    device = DeviceWorker(setup_for(settings, "cpu", "cpu", expendable=False))
    place = tmp_path / "drafts"
    place.mkdir()
    task = RenderTask(make_sleeper_job(""), None, place / "a.mp4", tags={"title": "a name"})
    with pytest.raises(RowError, match="lost its tag 'title'") as caught:
        device.render(task, lambda *_: None)
    assert caught.value.code is ErrorCode.BAD_CLIP
    assert list(place.iterdir()) == []


def test_rendered_frames_are_labelled_anew_when_the_encoder_failed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    encode = worker.encode_clip

    def fail_once(frames: np.ndarray, *more: object) -> None:
        seen.append(frames.copy())
        if len(seen) == 1:
            raise RowError(ErrorCode.ENCODER, "ffmpeg exited with 1", transient=True)
        encode(frames, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "encode_clip", fail_once)
    device = DeviceWorker(setup_for(settings, "cpu", "cpu", expendable=False))
    task = RenderTask(make_sleeper_job("", label="cn"), None, tmp_path / "a.mp4")
    with pytest.raises(RowError):
        device.render(task, lambda *_: None)
    device.render(task, lambda *_: None)
    assert np.array_equal(seen[0], seen[1])
