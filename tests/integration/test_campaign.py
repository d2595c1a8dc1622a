"""The campaign's own rules on a real folder and real parquet; the devices follow a script."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from lynx_engine.campaign import open_campaign
from lynx_engine.errors import (
    AbandonedError,
    DamagedError,
    ErrorCode,
    ExitCode,
    LockedError,
    PausedError,
    Problem,
    RowError,
)
from lynx_engine.jobs import RenderJob, RenderPlan
from lynx_engine.lock import lock_campaign
from lynx_engine.orders import RenderTask
from lynx_engine.outcomes import CampaignSummary
from lynx_engine.preflight import Preflight, face_keys
from lynx_engine.provenance.past import read_history
from lynx_engine.provenance.store import read_log
from lynx_engine.results import Failed, Interrupted, Rendered
from lynx_engine.settings import Settings
from lynx_engine.survey import intact_clips
from tests.support.jobs import astronaut, make_job, plan_of
from tests.support.pools import ScriptedPool, Watcher

NO_FACES = Preflight({}, {})


def raising(error: BaseException) -> Callable[[RenderTask], NoReturn]:
    def fail(_: RenderTask) -> NoReturn:
        raise error

    return fail


def settings_in(folder: Path) -> Settings:
    return Settings(workspace=folder)


def run(
    folder: Path,
    pool: ScriptedPool,
    plan: RenderPlan,
    *,
    faces: Preflight = NO_FACES,
    watcher: Watcher | None = None,
) -> CampaignSummary:
    settings = settings_in(folder)
    with (
        lock_campaign(settings.campaign_dir("trial")) as lock,
        open_campaign(
            lock, plan, pool, settings=settings, faces=faces, observer=watcher or Watcher()
        ) as campaign,
    ):
        for turn in campaign.turns():
            campaign.render_row(turn)
        return campaign.summary()


def statuses(folder: Path) -> dict[int, tuple[str, str]]:
    log = read_log("trial", settings=settings_in(folder))
    return {row["seed"]: (row["status"], row["code"]) for row in log.iter_rows(named=True)}


def clips(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "outputs/trial/clips").iterdir()}


def drafts(folder: Path) -> list[Path]:
    return list((folder / "outputs/trial/.drafts").iterdir())


THREE = tuple(make_job(seed=seed) for seed in (1, 2, 3))


def test_each_row_becomes_one_clip_and_one_record(tmp_path: Path) -> None:
    summary = run(tmp_path, ScriptedPool(), plan_of(*THREE))
    assert clips(tmp_path) == {job.clip_name: b"clip of seed %d" % job.seed for job in THREE}
    assert statuses(tmp_path) == dict.fromkeys((1, 2, 3), ("rendered", ""))
    assert (summary.rendered, summary.failed, summary.exit_code) == (3, 0, ExitCode.OK)
    assert drafts(tmp_path) == []


def test_clip_is_readable_as_the_umask_says(tmp_path: Path) -> None:
    run(tmp_path, ScriptedPool(), plan_of(THREE[0]))
    clip = tmp_path / "outputs/trial/clips" / THREE[0].clip_name
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(clip.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_row_that_fails_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    watcher = Watcher()
    pool = ScriptedPool({2: raising(RowError(ErrorCode.ENCODER, "ffmpeg exited with 1"))})
    summary = run(tmp_path, pool, plan_of(*THREE), watcher=watcher)
    assert statuses(tmp_path)[2] == ("failed", "encoder")
    assert (summary.rendered, summary.failed) == (2, 1)
    assert summary.exit_code is ExitCode.ROWS_FAILED
    assert summary.failures == {THREE[1].clip_name: "encoder: ffmpeg exited with 1"}
    assert watcher.results[2] == Failed(ErrorCode.ENCODER, "ffmpeg exited with 1")
    assert isinstance(watcher.results[3], Rendered)
    assert (1, "denoise", 1, 4) in watcher.stages


def test_unexpected_exception_keeps_its_traceback_and_exits_3(tmp_path: Path) -> None:
    pool = ScriptedPool({1: raising(ZeroDivisionError("a bug"))})
    summary = run(tmp_path, pool, plan_of(*THREE))
    assert statuses(tmp_path) == {
        1: ("failed", "internal"),
        2: ("rendered", ""),
        3: ("rendered", ""),
    }
    assert summary.exit_code is ExitCode.BUG
    (traceback,) = (tmp_path / "outputs/trial").glob("traceback-*.txt")
    assert "ZeroDivisionError: a bug" in traceback.read_text()
    assert str(traceback) in summary.failures[THREE[0].clip_name]


def test_secret_in_a_bugs_words_reaches_neither_log_nor_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef123456")
    bug = ZeroDivisionError("asked https://me:pass@host with hf_abcdef123456")
    summary = run(tmp_path, ScriptedPool({1: raising(bug)}), plan_of(*THREE))
    (told,) = summary.failures.values()
    assert "asked https://***@host with ***" in told
    (traceback,) = (tmp_path / "outputs/trial").glob("traceback-*.txt")
    assert "ZeroDivisionError: asked https://***@host with ***" in traceback.read_text()
    for file in (tmp_path / "outputs/trial").rglob("*"):
        assert file.is_dir() or b"hf_abcdef" not in file.read_bytes(), file


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "clip.mp4"),
        OSError(30, "Read-only file system", "clip.mp4"),
        OSError(122, "Disk quota exceeded", "clip.mp4"),
        RowError(ErrorCode.DISK, "ffmpeg: No space left on device"),
    ],
)
def test_full_disk_pauses_and_marks_nothing_failed(tmp_path: Path, error: Exception) -> None:
    pool = ScriptedPool({2: raising(error)})
    summary = run(tmp_path, pool, plan_of(*THREE))
    assert statuses(tmp_path) == {1: ("rendered", "")}
    assert pool.seeds == [1, 2]
    assert (summary.exit_code, summary.interrupted, summary.failed) == (ExitCode.PAUSED, 2, 0)


def test_record_that_cannot_be_written_pauses_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lynx_engine.publisher.prepare_part", full)
    summary = run(tmp_path, ScriptedPool(), plan_of(*THREE))
    assert summary.exit_code is ExitCode.PAUSED
    assert statuses(tmp_path) == {}


def test_rows_given_up_are_interrupted_and_not_charged(tmp_path: Path) -> None:
    pool = ScriptedPool({2: raising(AbandonedError())})
    summary = run(tmp_path, pool, plan_of(*THREE))
    assert statuses(tmp_path)[2] == ("interrupted", "")
    assert summary.interrupted == 1


def test_stopped_campaign_begins_no_further_row(tmp_path: Path) -> None:
    pool, watcher, plan = ScriptedPool(), Watcher(), plan_of(*THREE)
    settings = settings_in(tmp_path)
    with (
        lock_campaign(settings.campaign_dir("trial")) as lock,
        open_campaign(
            lock, plan, pool, settings=settings, faces=NO_FACES, observer=watcher
        ) as campaign,
    ):
        turns = campaign.turns(threads=2)
        campaign.render_row(next(turns))
        waiting = next(turns)
        campaign.stop(signal.SIGTERM, drain_s=20)
        campaign.render_row(waiting)
        assert list(turns) == []
        summary = campaign.summary()
    assert pool.seeds == [1]
    assert isinstance(watcher.results[2], Interrupted)
    assert summary.exit_code == 143
    assert (pool.abandoned, watcher.drains) == (True, []), "nothing was in flight: no wait"
    assert statuses(tmp_path) == {1: ("rendered", "")}


def faced(seed: int, *, variant: str = "tiny", face: str = "only") -> RenderJob:
    return make_job(
        seed=seed, variant=variant, face=face, photos=(astronaut(),), subject_digest="ab" * 32
    )


def test_face_is_embedded_once_for_all_rows_that_share_photo_and_recogniser(
    tmp_path: Path,
) -> None:
    jobs = [faced(1), faced(2), faced(3, variant="tiny_lite"), faced(4, face="largest")]
    landmarks = np.zeros((5, 2), np.float32)
    faces = Preflight({face_keys(job)[0]: landmarks for job in jobs}, {})
    pool = ScriptedPool()
    run(tmp_path, pool, plan_of(*jobs), faces=faces)
    assert len(pool.faces) == 2
    assert {request.photo for request in pool.faces} == {astronaut().resolve()}


def test_row_without_a_usable_face_fails_with_its_code(tmp_path: Path) -> None:
    job = faced(1)
    faces = Preflight({}, {job.job_id: Problem("trial.yaml:3", "no face was found")})
    pool = ScriptedPool()
    run(tmp_path, pool, plan_of(job, THREE[1]), faces=faces)
    assert statuses(tmp_path) == {1: ("failed", "face"), 2: ("rendered", "")}


def test_left_over_drafts_and_half_parts_are_swept(tmp_path: Path) -> None:
    folder = tmp_path / "outputs/trial"
    for name in (".drafts/dead.mp4", "provenance/.part-x.parquet.7.tmp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"half")
    run(tmp_path, ScriptedPool(), plan_of(THREE[0]))
    assert drafts(tmp_path) == []
    assert {p.suffix for p in (folder / "provenance").iterdir()} == {".parquet", ""}


HOLDER = """
import sys
from pathlib import Path
from lynx_engine.lock import lock_campaign
with lock_campaign(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_run_of_a_campaign_is_refused_with_the_holder_named(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "outputs" / "trial")],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(LockedError, match=f"process {holder.pid} on ") as caught:
                run(tmp_path, ScriptedPool(), plan_of(*THREE))
            assert caught.value.exit_code is ExitCode.LOCKED
        finally:
            holder.kill()
    # The lock went with its holder, however it died.
    assert run(tmp_path, ScriptedPool(), plan_of(*THREE)).rendered == 3


def test_row_that_another_run_finished_meanwhile_is_not_rendered_again(tmp_path: Path) -> None:
    stale = plan_of(*THREE)
    run(tmp_path, ScriptedPool(), plan_of(*THREE[:2]))
    pool = ScriptedPool()
    summary = run(tmp_path, pool, stale)
    assert pool.seeds == [3]
    assert (summary.rendered, summary.done_before) == (1, 2)
    assert len(read_log("trial", settings=settings_in(tmp_path))) == 3


def test_stop_with_a_row_in_flight_tells_how_long_it_gets(tmp_path: Path) -> None:
    watcher = Watcher()
    settings = settings_in(tmp_path)
    pool = ScriptedPool()
    with (
        lock_campaign(settings.campaign_dir("trial")) as lock,
        open_campaign(
            lock, plan_of(*THREE), pool, settings=settings, faces=NO_FACES, observer=watcher
        ) as campaign,
    ):

        def stop(_: RenderTask) -> NoReturn:
            campaign.stop(signal.SIGINT, drain_s=20)
            raise AbandonedError

        pool.faults = {1: stop}
        for turn in campaign.turns():
            campaign.render_row(turn)
        summary = campaign.summary()
    assert watcher.drains == [20]
    assert (summary.exit_code, summary.interrupted) == (130, 3)
    assert statuses(tmp_path) == {1: ("interrupted", "")}


@pytest.mark.parametrize("spoiled", ["outputs", "outputs/trial", "outputs/trial/clips"])
def test_place_that_cannot_be_written_pauses_before_any_row(tmp_path: Path, spoiled: str) -> None:
    path = tmp_path / spoiled
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file where a folder is due")
    with pytest.raises(PausedError, match="make room, or make it writable"):
        run(tmp_path, ScriptedPool(), plan_of(*THREE))


def test_key_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".lynx").mkdir()
    (tmp_path / ".lynx" / "workspace.key").touch()
    with pytest.raises(DamagedError, match=r"workspace\.key: holds 0 bytes"):
        run(tmp_path, ScriptedPool(), plan_of(*THREE))


def test_history_knows_clips_that_were_cut_or_emptied(tmp_path: Path) -> None:
    folder = tmp_path / "outputs/trial"
    run(tmp_path, ScriptedPool(), plan_of(*THREE))
    history = read_history(folder / "provenance")
    names = [job.clip_name for job in THREE]
    assert intact_clips(folder / "clips", history) == set(names)
    (folder / "clips" / names[0]).write_bytes(b"")
    (folder / "clips" / names[1]).write_bytes(b"clip of see")
    (folder / "clips" / "foreign.mp4").write_bytes(b"x")
    assert intact_clips(folder / "clips", history) == {names[2]}
    (folder / "clips" / names[2]).unlink()
    assert intact_clips(folder / "clips", history) == frozenset()
