"""The disk refuses at every operation in turn: one clear error, nothing lost, nothing claimed.

The oracle is the list of seeds asked for, and the bytes that the scripted renderer writes.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest

from lynx_engine.digest import digest_file
from lynx_engine.errors import DamagedError, ErrorCode, ExitCode, LynxError, PausedError, RowError
from lynx_engine.jobs import PlannedJob, RenderJob
from lynx_engine.orders import ClipDraft, RenderTask
from lynx_engine.pool import InProcessPool
from lynx_engine.provenance.folding import Recovery, recover_log
from lynx_engine.provenance.store import read_parts
from lynx_engine.publisher import Publisher
from lynx_engine.results import Rendered
from lynx_engine.settings import Settings
from lynx_engine.shapes import FrameSize
from tests.faults.disk import CAMPAIGN, Fault, HonestPool, clip_bytes, run_trial, watched
from tests.faults.harness import FULL, ROOT, describe, size
from tests.support.jobs import make_job, make_sleeper_job, plan_of
from tests.support.pools import Watcher

Figure = Callable[[str], None]

SEEDS = (1, 2, 3, 4)
FAILING = 3
JOBS = {seed: make_job(seed=seed) for seed in SEEDS}
NUMBERS = (errno.EIO, errno.ENOSPC, errno.EROFS)


def fail(_: RenderTask) -> NoReturn:
    raise RowError(ErrorCode.BAD_FRAMES, "the picture is black.")


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """Return a workspace whose first row is rendered, and its log folded."""
    workspace = tmp_path / "begun"
    run_trial(Settings(workspace=workspace), HonestPool(), plan_of(JOBS[1]))
    return workspace


def refused_run(workspace: Path, fault: Fault) -> tuple[str, Watcher]:
    """Run with a fault; return how it ended, in one word, and who watched."""
    watcher = Watcher()
    pool = HonestPool({FAILING: fail})
    settings = Settings(workspace=workspace)
    try:
        with watched(workspace, fault):
            summary = run_trial(settings, pool, plan_of(*JOBS.values()), watcher)
    except (PausedError, DamagedError) as error:
        told = str(error)
        assert os.strerror(fault.number) in told
        assert str(workspace) in told
        return "letter", watcher
    if summary.exit_code == ExitCode.PAUSED:
        assert os.strerror(fault.number) in summary.paused
        return "paused", watcher
    # Only tidying can fail without a word to the shell: the next run does it.
    assert (summary.rendered, summary.exit_code) == (2, ExitCode.ROWS_FAILED)
    return "done", watcher


def claimed_falsely(workspace: Path, watcher: Watcher) -> int:
    """Return how many rows were reported as rendered without a record and a whole clip."""
    folder = workspace / "outputs" / CAMPAIGN
    log = read_parts(folder / "provenance")
    recorded = set(log.filter(log["status"] == "rendered")["seed"])
    claimed = [seed for seed, result in watcher.results.items() if isinstance(result, Rendered)]
    return sum(
        seed not in recorded
        or (folder / "clips" / JOBS[seed].clip_name).read_bytes() != clip_bytes(JOBS[seed])
        for seed in claimed
    )


def assert_whole_after_another_run(workspace: Path) -> None:
    """Check that a run without faults leaves each row rendered once, and nothing else."""
    settings = Settings(workspace=workspace)
    summary = run_trial(settings, HonestPool(), plan_of(*JOBS.values()))
    assert summary.exit_code == ExitCode.OK, summary
    folder = workspace / "outputs" / CAMPAIGN
    log = read_parts(folder / "provenance")
    assert sorted(log.filter(log["status"] == "rendered")["seed"]) == list(SEEDS)
    assert set(log["code"]) <= {"", "bad_frames"}
    clips = {path.name: path.read_bytes() for path in (folder / "clips").iterdir()}
    assert clips == {job.clip_name: clip_bytes(job) for job in JOBS.values()}
    assert {path.name for path in folder.iterdir()} == {".drafts", ".lock", "clips", "provenance"}
    assert list((folder / ".drafts").iterdir()) == []
    assert list((folder / "provenance").glob(".*")) == []
    assert recover_log(folder / "provenance", folder / "clips") == Recovery()
    again = HonestPool()
    run_trial(settings, again, plan_of(*JOBS.values()))
    assert again.seeds == []


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: errno.errorcode[number])
def test_disk_that_refuses_any_operation_pauses_the_campaign_and_loses_nothing(
    tmp_path: Path, begun: Path, figure: Figure, number: int, lasts: bool
) -> None:
    ended = {"letter": 0, "paused": 0, "done": 0}
    falsely = 0
    # CI refuses every fifth operation, each kind of fault other ones; in full, all.
    at = 1 if FULL else 1 + 2 * NUMBERS.index(number) % 5 + lasts
    while True:
        workspace = tmp_path / "tried"
        shutil.copytree(begun, workspace)
        fault = Fault(number, at, lasts)
        how, watcher = refused_run(workspace, fault)
        if fault.refused is None:
            break
        ended[how] += 1
        falsely += claimed_falsely(workspace, watcher)
        assert_whole_after_another_run(workspace)
        shutil.rmtree(workspace)
        at += size(quick=7, full=1)
    name = f"disk-{errno.errorcode[number]}-{'lasting' if lasts else 'once'}"
    figure(describe(name, refused=sum(ended.values()), **ended, claimed=falsely, lost=0))
    assert falsely == 0
    assert ended["paused"] > 0
    assert ended["letter"] > 0 or not FULL


def test_mutant_that_takes_a_refused_record_for_done_claims_falsely(
    tmp_path: Path, begun: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Publisher.publish

    def claim(self: Publisher, planned: PlannedJob, draft: ClipDraft) -> Rendered:
        try:
            return publish(self, planned, draft)
        except OSError:
            return Rendered(planned.job.clip_name, draft.clip, draft.worker)

    monkeypatch.setattr(Publisher, "publish", claim)
    falsely = 0
    for at in range(1, 100):
        workspace = tmp_path / str(at)
        shutil.copytree(begun, workspace)
        watcher = Watcher()
        fault = Fault(errno.ENOSPC, at)
        with watched(workspace, fault):
            try:
                run_trial(Settings(workspace=workspace), HonestPool(), plan_of(JOBS[2]), watcher)
            except LynxError:
                continue
        if fault.refused is None:
            break
        falsely += claimed_falsely(workspace, watcher)
    assert falsely > 0
    figure("MUTANT disk-claim red")


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Generator[Callable[[str], None]]:
    """Mount a disk of its own, and give what changes its options; skip where that is forbidden."""
    place.mkdir()

    def mount(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["mount", "-t", "tmpfs", *words, "tmpfs", str(place)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = mount("-o", f"size={size_bytes}")
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield lambda option: mount("-o", f"remount,{option}").check_returncode()
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def sleeper_jobs(count: int) -> list[RenderJob]:
    """Return jobs whose clips are noise to the encoder: some 30 kB each."""
    big = {"size": FrameSize(128, 128), "frames": 9, "crf": 1}
    return [make_sleeper_job("", seed=seed, **big) for seed in range(count)]


@pytest.mark.parametrize("option", ["size=8m", "rw"], ids=["full", "read-only"])
def test_disk_that_is_full_or_read_only_pauses_and_goes_on_once_it_is_mended(
    tmp_path: Path, figure: Figure, option: str
) -> None:
    """The real encoder on a real disk; a file takes 4 kB at least on this one."""
    jobs = sleeper_jobs(8)
    with small_disk(tmp_path / "disk", 200_000 if option.startswith("size") else 8_000_000) as to:
        settings = Settings(workspace=tmp_path / "disk" / "studio")
        if option == "rw":
            run_trial(settings, InProcessPool(settings, "cpu"), plan_of(jobs[0]))
            to("ro")
            with pytest.raises(PausedError, match=r"Read-only file system\. Nothing is lost"):
                run_trial(settings, InProcessPool(settings, "cpu"), plan_of(*jobs))
            rendered = 1
        else:
            first = run_trial(settings, InProcessPool(settings, "cpu"), plan_of(*jobs))
            assert (first.exit_code, first.failed) == (ExitCode.PAUSED, 0)
            assert "No space left on device" in first.paused
            rendered = first.rendered
            assert 0 < rendered < len(jobs)
            # Nor has the full disk room for the lock's own words, or it has for little more.
            with suppress(PausedError):
                rendered += run_trial(
                    settings, InProcessPool(settings, "cpu"), plan_of(*jobs)
                ).rendered
        to(option)
        last = run_trial(settings, InProcessPool(settings, "cpu"), plan_of(*jobs))
        assert (last.exit_code, last.done_before) == (ExitCode.OK, rendered)
        folder = settings.campaign_dir(CAMPAIGN)
        log = read_parts(folder / "provenance")
        assert sorted(log["seed"]) == list(range(8)), "no row was charged with the disk"
        for row in log.iter_rows(named=True):
            assert digest_file(folder / "clips" / row["clip"]) == row["clip_digest"]
        temps = [*(folder / ".drafts").iterdir(), *(folder / "provenance").glob(".*")]
        assert temps == []
    figure(describe(f"disk-{option.partition('=')[0]}", before=rendered, lost=0, temps=0))


def test_folder_that_only_others_may_write_pauses_before_any_row(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / CAMPAIGN
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    program = (
        "import os; from pathlib import Path; from lynx_engine.errors import PausedError\n"
        "from lynx_engine.lock import lock_campaign\n"
        "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
        "try:\n"
        f"    with lock_campaign(Path({str(folder)!r})): print('locked')\n"
        "except PausedError as error: print(error)\n"
    )
    if os.geteuid() == 0:  # whom no mode stops: the child becomes somebody else
        folder.chmod(0o555)
        for path in tmp_path.parents[:2]:
            path.chmod(0o711)
        tmp_path.chmod(0o711)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stderr == ""
    assert "Permission denied. Nothing is lost: make room, or make it writable" in done.stdout
