"""ffmpeg dies after each of a clip's frames: no clip with a wrong count is ever published.

A program named ffmpeg stands first on PATH and does to the real one what it was ordered. The
oracle is a count of the frames that another ffmpeg decodes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lynx_engine import rules, worker
from lynx_engine.digest import digest_file
from lynx_engine.errors import ExitCode
from lynx_engine.jobs import RenderJob
from lynx_engine.media.video import ClipFormat, find_ffmpeg
from lynx_engine.pool import InProcessPool
from lynx_engine.provenance.store import read_parts
from lynx_engine.results import ClipFacts
from lynx_engine.settings import Settings
from tests.faults.disk import CAMPAIGN, run_trial
from tests.faults.harness import Night, audit, describe, orphans_after, size
from tests.support.jobs import make_sleeper_job, plan_of
from tests.support.workspaces import COMMAND

Figure = Callable[[str], None]

FRAMES = size(quick=5, full=81)

STAND_IN = """\
#!{python} -IS
import fcntl, os, signal, struct, subprocess, sys, termios, time
words = sys.argv[1:]
clip = next((word for word in words if word.endswith(".mp4")), "")
place = {orders!r} + "/" + "-".join(os.path.basename(clip).split("-")[:2])
if "libx264" not in words or not os.path.exists(place):
    os.execv({real!r}, [{real!r}, *words])
how, count, after_s = open(place).read().split()
os.unlink(place)
open({orders!r} + "/kills", "a").write(how + "\\n")
# The tags come by a descriptor of their own.
real = subprocess.Popen([{real!r}, *words], stdin=subprocess.PIPE, close_fds=False)
left = int(count) * {frame_bytes}
while left:
    data = sys.stdin.buffer.read(min(left, 65536))
    real.stdin.write(data)
    left -= len(data)
real.stdin.flush()
waiting, give_up = 1, time.monotonic() + 5
while waiting and time.monotonic() < give_up:
    waiting, = struct.unpack("i", fcntl.ioctl(real.stdin, termios.FIONREAD, b"    "))
if how in ("short", "late"):
    real.stdin.close()
time.sleep(float(after_s))
if how == "short":
    sys.exit(real.wait())
real.kill()
if how == "late" and real.wait() == 0:
    sys.exit(0)  # it was done before the kill
real.wait()
if how == "parent":
    os.kill(os.getppid(), signal.SIGKILL)
if how == "hidden":
    sys.exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass(frozen=True)
class Orders:
    """What is to happen to which attempt.

    Attributes:
        folder: One file an attempt; it is gone once it was obeyed.
        path: A PATH on which the stand-in comes first.
    """

    folder: Path
    path: str

    def give(
        self, job: RenderJob, how: str, count: int, after_s: float = 0, *, to: int = 1
    ) -> None:
        """Order what becomes of the encoder of one attempt once it got `count` frames.

        Args:
            job: Whose clip.
            how: `killed`, and seen by its exit code; `hidden`: it says all went well; `short`:
                it is not killed, its input ends; `late`: killed once it had all; `parent`:
                killed, and with it the process that feeds it.
            count: Frames that it gets.
            after_s: Seconds to wait then.
            to: Which attempt.
        """
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{job.job_id[:12]}-a{to}").write_text(f"{how} {count} {after_s}")

    def obeyed(self) -> int:
        return len((self.folder / "kills").read_text().splitlines())


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Orders]:
    folder, tools = tmp_path / "orders", tmp_path / "tools"
    tools.mkdir()
    stand_in = tools / "ffmpeg"
    find_ffmpeg.cache_clear()
    stand_in.write_text(
        STAND_IN.format(
            python=sys.executable, orders=str(folder), real=find_ffmpeg(), frame_bytes=32 * 32 * 3
        )
    )
    stand_in.chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    find_ffmpeg.cache_clear()
    yield Orders(folder, path)
    find_ffmpeg.cache_clear()


def decoded_frames(clip: Path) -> int:
    """Count frames by a program and a format that the engine does not use."""
    real = shutil.which("ffmpeg", path=os.environ["PATH"].partition(os.pathsep)[2])
    command = [real or find_ffmpeg(), "-v", "error", "-i", str(clip), "-f", "framecrc", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return sum(not line.startswith("#") for line in done.stdout.splitlines())


def give_orders(orders: Orders) -> list[RenderJob]:
    """Return jobs, the first attempt at each broken in a way of its own."""
    ways = [(how, count, 0.0) for how in ("killed", "hidden", "short") for count in range(FRAMES)]
    ways += [("killed", FRAMES, 0.0), ("hidden", FRAMES, 0.0)]
    # A clip is closed, and its index moved to the front, in some 30 ms after the last frame.
    ways += [
        ("late", FRAMES, n / size(quick=200, full=4000)) for n in range(size(quick=5, full=160))
    ]
    jobs = [make_sleeper_job("", seed=seed, frames=FRAMES) for seed in range(len(ways))]
    for job, way in zip(jobs, ways, strict=True):
        orders.give(job, *way)
    return jobs


def wrong_counts(settings: Settings) -> int:
    clips = (settings.campaign_dir(CAMPAIGN) / "clips").iterdir()
    return sum(decoded_frames(clip) != FRAMES for clip in clips)


@pytest.mark.timeout(1800)
def test_encoder_killed_after_any_frame_publishes_no_clip_of_another_length(
    tmp_path: Path, orders: Orders, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "TRANSIENT_WAITS_S", (0.0, 0.0, 0.0))
    jobs = give_orders(orders)
    hopeless = make_sleeper_job("", seed=10_000, frames=FRAMES)
    for attempt in range(1, 5):
        orders.give(hopeless, "killed", FRAMES // 2, to=attempt)
    settings = Settings(workspace=tmp_path / "studio")
    pool = InProcessPool(settings, "cpu")
    summary = run_trial(settings, pool, plan_of(*jobs, hopeless))
    folder = settings.campaign_dir(CAMPAIGN)
    log = read_parts(folder / "provenance")
    rendered = {row["clip"]: row["clip_digest"] for row in log.iter_rows(named=True) if row["clip"]}
    clips = {path.name: digest_file(path) for path in (folder / "clips").iterdir()}
    torn = wrong_counts(settings)
    mismatch = len(clips.items() ^ rendered.items())
    temps = len(list((folder / ".drafts").iterdir()))
    kills = orders.obeyed()
    figure(describe("kill-encoder", kills=kills, torn=torn, mismatch=mismatch, temps=temps))
    assert (torn, mismatch, temps) == (0, 0, 0)
    assert clips.keys() == {job.clip_name for job in jobs}
    assert (summary.rendered, summary.failed) == (len(jobs), 1)
    assert summary.failures[hopeless.clip_name].startswith("encoder: ffmpeg exited with -9")
    assert kills == len(jobs) + 4
    # Seen by its exit code, or by what it left.
    codes = log.filter(log["status"] == "failed")["code"].value_counts()
    counts = dict(codes.iter_rows())
    assert counts.keys() == {"encoder", "bad_clip"}
    assert counts["encoder"] >= FRAMES + 1 + 4
    assert counts["bad_clip"] >= 2 * FRAMES


def test_device_process_that_dies_in_the_encoder_publishes_nothing_half(
    tmp_path: Path, orders: Orders, figure: Figure
) -> None:
    night = Night(tmp_path / "night", ["sleep=0"] * 10, variables={"PATH": orders.path})
    # Every other row is well: a device under which three rows in a row die is given up.
    for count, job in enumerate(night.jobs()[::2]):
        orders.give(job, "parent", count)
    told = night.finish()
    found = audit(night)
    kills, orphans = orders.obeyed(), orphans_after(night.folder)
    figure(describe("kill-in-encoder-worker", kills=kills, **found.figures(), orphans=orphans))
    assert (kills, orphans, found.is_clean) == (5, 0, True)
    assert told["exit_code"] == 0
    log = read_parts(night.outputs / "provenance")
    charged = set(log.filter(log["status"] == "failed")["job_id"])
    assert charged <= {job.job_id for job in night.jobs()[::2]}, "no row that rendered beside it"


def test_run_that_dies_in_the_encoder_publishes_nothing_half(
    tmp_path: Path, orders: Orders, figure: Figure
) -> None:
    """The installed command, with the encoder under the very process that writes the log."""
    counts = range(0, 6, size(quick=2, full=1))
    night = Night(tmp_path / "night", ["sleep=0"] * len(counts))
    for count, job in zip(counts, night.jobs(), strict=True):
        orders.give(job, "parent", count)
    command = [str(COMMAND), "render", str(night.manifest), "--in-process", "--quiet"]
    codes: list[int] = []
    while not codes or codes[-1] == -signal.SIGKILL:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        codes.append(done.returncode)
        clips = list((night.outputs / "clips").iterdir())
        assert [decoded_frames(clip) for clip in clips] == [5] * len(clips)
    found = audit(night)
    figure(describe("kill-in-encoder-run", kills=orders.obeyed(), **found.figures()))
    assert codes == [*[-signal.SIGKILL] * len(counts), ExitCode.OK]
    assert found.is_clean


def test_mutant_without_the_check_publishes_short_clips(
    tmp_path: Path, orders: Orders, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def believe(path: Path, clip: ClipFormat) -> ClipFacts:
        return ClipFacts(
            bytes=path.stat().st_size,
            digest=digest_file(path),
            frames_digest="",
            frames=clip.frames,
            fps=float(clip.fps),
            size=clip.size,
        )

    monkeypatch.setattr(worker, "check_clip", believe)
    settings = Settings(workspace=tmp_path / "studio")
    job = make_sleeper_job("", seed=1, frames=FRAMES)
    orders.give(job, "short", FRAMES - 1)
    run_trial(settings, InProcessPool(settings, "cpu"), plan_of(job))
    assert wrong_counts(settings) == 1
    figure("MUTANT clip-check red")
