"""The safety check of finished frames: real encoder and decoder, classifiers that see pixels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lynx_engine.campaign import open_campaign
from lynx_engine.errors import ErrorCode, ExitCode, RowError
from lynx_engine.folders import ModelFolders
from lynx_engine.history import Past, sort_by_past
from lynx_engine.jobs import Reason, RenderJob, RenderPlan
from lynx_engine.lock import lock_campaign
from lynx_engine.media.video import ClipFormat, encode_clip, read_frames
from lynx_engine.orders import RenderTask, setup_for
from lynx_engine.outcomes import CampaignSummary
from lynx_engine.pool import InProcessPool, open_pool, remote
from lynx_engine.pool.protocol import Pool
from lynx_engine.preflight import Preflight
from lynx_engine.provenance.past import read_history
from lynx_engine.provenance.store import read_log
from lynx_engine.results import SafetyVerdict, Withheld, WithheldError
from lynx_engine.safety.check import FRAMES_AT_A_TIME, SafetyCheck
from lynx_engine.safety.classifiers import ClassifierPlace
from lynx_engine.settings import Settings
from lynx_engine.shapes import FrameSize
from lynx_engine.survey import intact_clips
from lynx_engine.variants import REGISTRY, get_variant
from lynx_engine.worker import DeviceWorker
from tests.support import classifiers
from tests.support.jobs import make_sleeper_job, plan_of
from tests.support.people import registering
from tests.support.pools import Watcher, ignore
from tests.support.renders import astronaut

FRAMES = 9
PLACE = ClassifierPlace(ModelFolders(Path("models")), Path("cache"), 1)


@pytest.fixture(autouse=True)
def _people(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    monkeypatch.setitem(REGISTRY, "people", "tests.support.people")
    get_variant.cache_clear()
    yield
    get_variant.cache_clear()


def stub(name: str) -> str:
    return f"{classifiers.HERE}:load_{name}"


def row(prompt: str = "", *, variant: str = "people", **changes: object) -> RenderJob:
    return make_sleeper_job(prompt, variant=variant, frames=FRAMES, **changes)


@dataclass(frozen=True)
class Place:
    """A workspace whose clips are looked at by one classifier."""

    settings: Settings

    def run(self, plan: RenderPlan, pool: Pool | None = None) -> tuple[CampaignSummary, Watcher]:
        settings, watcher = self.settings, Watcher()
        with (
            lock_campaign(settings.campaign_dir("trial")) as lock,
            open_campaign(
                lock,
                plan,
                pool or InProcessPool(settings, "cpu"),
                settings=settings,
                faces=Preflight({}, {}),
                observer=watcher,
            ) as campaign,
        ):
            for turn in campaign.turns():
                campaign.render_row(turn)
            return campaign.summary(), watcher

    def planned(self, *jobs: RenderJob) -> RenderPlan:
        """Plan by the log, as a later run does."""
        folder = self.settings.campaign_dir("trial")
        history = read_history(folder / "provenance")
        clips = intact_clips(folder / "clips", history)
        past = Past(history.latest, history.by_job, history.attempts, clips)
        to_run, done, held, _ = sort_by_past(jobs, past, None)
        return RenderPlan("trial", tuple(to_run), tuple(done), tuple(held))

    def records(self) -> list[dict[str, object]]:
        return read_log("trial", settings=self.settings).to_dicts()

    def videos(self) -> list[str]:
        """Every file of the workspace that is a clip, or a part of one."""
        kept = {"provenance", "campaign.lock"}
        found = (p for p in self.settings.workspace.rglob("*") if p.is_file())
        return [p.name for p in found if b"ftyp" in p.read_bytes()[:64] or ".mp4" in p.name] + [
            p.name
            for p in self.settings.campaign_dir("trial").rglob("*")
            if p.is_file() and p.parent.name == ".drafts" and p.name not in kept
        ]


Studio = Callable[..., Place]


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    def make(name: str = "red", **more: object) -> Place:
        asked = name if ":" in name or name in {"auto", "none"} else stub(name)
        folder = tmp_path / "studio"
        settings = Settings(workspace=folder, cache=tmp_path / "cache", classifiers=asked, **more)  # pyright: ignore[reportArgumentType]
        return Place(settings)

    return make


def all_flagged_are_withheld(place: Place, at: int) -> str:
    """See that each of three clips is withheld; return the figures."""
    jobs = [row(f"red={at}", seed=seed) for seed in (1, 2, 3)]
    summary, watcher = place.run(plan_of(*jobs))
    assert [type(result) for result in watcher.results.values()] == [Withheld] * 3
    assert place.videos() == []
    assert list(place.settings.workspace.rglob("*.jpg")) == []
    assert (summary.withheld, summary.rendered, summary.failed) == (3, 0, 0)
    assert summary.exit_code == ExitCode.ROWS_FAILED
    for record in place.records():
        told = tuple(record[c] for c in ("status", "code", "safety_frame", "clip", "attempt"))
        assert told == ("withheld", "safety", at, "", 1)
        assert record["safety_classifiers"] == "stub 1 (none) from 0.5"
        score = record["safety_score"]
        assert isinstance(score, float)
        assert score >= 1
    return f"clips={len(jobs)} withheld={summary.withheld} files={len(place.videos())}"


@pytest.mark.parametrize("at", [0, FRAMES // 2, FRAMES - 1], ids=["first", "middle", "last"])
def test_every_clip_with_one_flagged_frame_is_withheld_and_leaves_no_file(
    studio: Studio, at: int, figure: Callable[[str], None]
) -> None:
    figure(f"SAFETY frame={at} of={FRAMES} {all_flagged_are_withheld(studio(), at)}")


def test_clips_would_be_published_were_the_check_taken_away(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str], None]
) -> None:
    fine = SafetyVerdict(classifiers="nobody", score=0.0, frame=0)
    monkeypatch.setattr(SafetyCheck, "judge", lambda *_: fine)
    with pytest.raises(AssertionError):
        all_flagged_are_withheld(studio(), 0)
    figure("MUTANT safety-check red")


def test_clip_that_nobody_flags_is_published_with_who_looked_and_how_long(studio: Studio) -> None:
    place = studio()
    summary, watcher = place.run(plan_of(row("red=4", seed=1), row(seed=2)))
    assert (summary.rendered, summary.withheld, summary.exit_code) == (1, 1, ExitCode.ROWS_FAILED)
    (clean,) = (record for record in place.records() if record["status"] == "rendered")
    assert clean["safety_classifiers"] == "stub 1 (none) from 0.5"
    score, took_s = clean["safety_score"], clean["safety_s"]
    assert isinstance(score, float)
    assert isinstance(took_s, float)
    assert 0 <= score < 1
    assert took_s > 0
    assert place.videos() == [row(seed=2).clip_name]
    result = watcher.results[1]
    assert isinstance(result, Withheld)
    assert "stub 1 saw 0.8" in result.message
    assert "in frame 4 (of 9, from 0), and flags from 0.5. The clip was not kept." in result.message
    told = [
        (done, total) for seed, name, done, total in watcher.stages if (seed, name) == (2, "safety")
    ]
    assert told == [(0, 1), (0, 2), (1, 2), (2, 2)], "a batch is a sign of life"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("never", "cannot be loaded (FileNotFoundError: no weights in "),
        ("lax", "cannot be loaded (ValueError: its floor is nan"),
        ("nothing_of_that_name", "cannot be loaded (AttributeError: "),
        ("raising", "stub 1 failed on frames 0 to 7 (ZeroDivisionError: a bug in the classifier)"),
        ("timing_out", "stub 1 failed on frames 0 to 7 (TimeoutError: [Errno 110]"),
        ("nan", "stub 1 gave frame 3 the score nan, not 0 to 1"),
        ("negative", "stub 1 gave frame 0 the score -0.1, not 0 to 1"),
        ("infinite", "stub 1 gave frame 0 the score inf, not 0 to 1"),
        ("short", "stub 1 answered frames 0 to 7 with scores of shape (7,), not one a frame"),
        ("tall", "stub 1 answered frames 0 to 7 with scores of shape (8, 2), not one a frame"),
        ("words", "stub 1 failed on frames 0 to 7 (ValueError: "),
        ("none", "no safety classifier is in this process"),
        ("red@0.9", "cannot be loaded (ValueError: 0.9 is laxer than its floor of 0.5)"),
    ],
)
def test_clip_is_withheld_once_when_a_classifier_cannot_say(
    studio: Studio, name: str, words: str
) -> None:
    place = studio("none" if name == "none" else stub(name))
    summary, watcher = place.run(plan_of(row()))
    (result,) = watcher.results.values()
    assert isinstance(result, Withheld)
    assert words in result.message
    assert result.message.endswith("The clip was not kept.")
    assert place.videos() == []
    (record,) = place.records()
    assert (record["status"], record["code"], record["clip"]) == ("withheld", "safety", "")
    assert record["safety_score"] is None
    assert summary.exit_code == ExitCode.ROWS_FAILED


def test_stricter_threshold_of_the_settings_withholds_what_the_floor_lets_pass(
    studio: Studio,
) -> None:
    # Plain stripes are a little red in the mean of some frames.
    summary, watcher = studio(f"{stub('red')}@0.000001").run(plan_of(row()))
    assert summary.withheld == 1, watcher.results


def test_withheld_frames_are_not_kept_in_memory_for_another_attempt(studio: Studio) -> None:
    settings = studio().settings
    settings.workspace.mkdir()
    worker = DeviceWorker(setup_for(settings, "cpu", "cpu", expendable=False))
    draft = settings.workspace / "draft.mp4"
    with pytest.raises(WithheldError):
        worker.render(RenderTask(row("red=0"), None, draft), ignore)
    assert not draft.exists()
    assert not worker._unencoded


@pytest.mark.parametrize(("variant", "safety"), [("sleeper", "on"), ("people", "acknowledged-off")])
def test_what_is_exempt_or_answered_for_is_not_looked_at_and_the_record_says_so(
    studio: Studio, variant: str, safety: str
) -> None:
    place = studio("raising")
    place.run(plan_of(row("red=0", variant=variant, safety=safety)))
    (record,) = place.records()
    assert (record["status"], record["safety"]) == ("rendered", safety)
    assert (record["safety_classifiers"], record["safety_score"]) == ("", None)


def test_clip_that_nobody_looked_at_runs_again_when_the_check_is_asked_for(studio: Studio) -> None:
    place = studio()
    unchecked = [row("red=4", seed=1), row(seed=2)]
    unchecked = [replace(job, safety="acknowledged-off") for job in unchecked]
    place.run(plan_of(*unchecked))
    assert len(place.videos()) == 2
    assert len(place.planned(*unchecked).done) == 2, "they stay done as long as somebody answers"
    asked = [replace(job, safety="on") for job in unchecked]
    assert [job.job_id for job in asked] == [job.job_id for job in unchecked]
    plan = place.planned(*asked)
    assert [p.reason for p in plan.to_run] == [Reason.UNCHECKED] * 2
    assert plan.to_run[0].why.startswith("safety check asked for now")
    summary, _ = place.run(plan)
    assert (summary.rendered, summary.withheld) == (1, 1)
    assert place.videos() == [asked[1].clip_name], "the flagged clip of before is gone, too"
    later = place.planned(*asked)
    assert ([job.seed for job in later.done], later.to_run) == ([2], ())
    (held,) = later.held
    assert (held.job.seed, held.withheld) == (1, True)


def test_row_behind_renders_while_a_clip_is_looked_at(studio: Studio, tmp_path: Path) -> None:
    settings = studio("waiting").settings
    worker = DeviceWorker(setup_for(settings, "cpu", "cpu", expendable=False))
    first = RenderTask(row(seed=1), None, tmp_path / "1.mp4")
    looked_at = threading.Thread(target=worker.render, args=(first, ignore))
    looked_at.start()
    try:
        deadline = time.monotonic() + 30
        while not classifiers.LOOKING.is_set():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        second = replace(row(seed=2), safety="acknowledged-off")
        draft = worker.render(RenderTask(second, None, tmp_path / "2.mp4"), ignore)
        assert draft.clip.frames == FRAMES
        assert looked_at.is_alive()
    finally:
        classifiers.GO_ON.set()
        looked_at.join(30)
    assert (tmp_path / "1.mp4").exists()


def test_device_process_withholds_and_a_classifier_that_hangs_is_ended_by_its_deadline(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", registering(tmp_path / "site"))
    place = studio("red", deadline_s=4.0, deadline_floor_s=3.0)
    with open_pool(place.settings, ("cpu",)) as pool:
        summary, watcher = place.run(plan_of(row("red=8", seed=1), row(seed=2)), pool)
    assert (summary.rendered, summary.withheld) == (1, 1)
    assert isinstance(watcher.results[1], Withheld)
    assert place.videos() == [row(seed=2).clip_name]

    hanging = studio("hanging", deadline_s=4.0, deadline_floor_s=3.0)
    draft = tmp_path / "hanging.mp4"
    with (
        open_pool(hanging.settings, ("cpu",)) as pool,
        pytest.raises(RowError, match="gave no sign of life") as caught,
    ):
        pool.render("cpu", RenderTask(row(), None, draft), ignore)
    assert caught.value.code is ErrorCode.WORKER_DIED
    assert not remote.answer_beside(draft).exists()


def test_frames_come_before_a_classifier_in_small_batches_and_each_once() -> None:
    seen: list[int] = []
    check = SafetyCheck((stub("red"),), PLACE)
    check.judge(np.zeros((2 * FRAMES_AT_A_TIME + 3, 8, 8, 3), np.uint8), lambda *_: None)
    (loaded,) = check._loaded.values()
    seen = loaded.classifier.seen  # type: ignore[attr-defined]
    assert seen == [FRAMES_AT_A_TIME, FRAMES_AT_A_TIME, 3]


def test_every_classifier_looks_and_the_one_nearest_to_its_threshold_is_told() -> None:
    check = SafetyCheck((stub("red"), f"{stub('red')}@0.4"), PLACE)
    frames = np.full((4, 32, 32, 3), 90, np.uint8)
    frames[2, ..., 0] = 130
    verdict = check.judge(frames, lambda *_: None)
    assert verdict.classifiers == "stub 1 (none) from 0.5, stub 1 (none) from 0.4"
    assert verdict.frame == 2
    assert verdict.score == pytest.approx(40 / 255 / 0.4)


def test_portrait_as_a_clip_is_not_flagged_by_open_nsfw(
    tmp_path: Path, figure: Callable[[str], None]
) -> None:
    photo = cv2.resize(astronaut(), (480, 480), interpolation=cv2.INTER_AREA)
    frames = np.stack([np.roll(photo, 4 * at, axis=1) for at in range(9)]).astype(np.uint8)
    clip = tmp_path / "portrait.mp4"
    encode_clip(frames, clip, ClipFormat(9, 8, FrameSize(480, 480), "h264", 18))
    check = SafetyCheck(("opennsfw",), PLACE)
    decoded = read_frames(clip)
    check.judge(decoded[:1], lambda *_: None)
    started = time.perf_counter()
    verdict = check.judge(decoded, lambda *_: None)
    took_ms = 1000 * (time.perf_counter() - started) / len(decoded)
    assert not verdict.flagged
    assert 0 < verdict.score < 0.2
    assert verdict.classifiers.startswith("opennsfw 0.1")
    figure(f"SAFETY opennsfw portrait={verdict.score * 0.75:.3f} ms_a_frame={took_ms:.0f}")
