"""What the other commands say and do while a campaign renders in another terminal."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.workspaces import COMMAND, Workspace

MANIFEST = """\
campaign: trial
defaults: {variant: tiny_lite, steps: STEPS}
subjects: {one: {image: one.png, consent: {basis: public-domain}}}
prompts: {wave: A person waves.}
matrix: [{subject: one, prompt: wave, seed: 1..ROWS}]
"""
LINE = re.compile(r"trial: rendering since \d\d:\d\d: \d+/60 rows(, ETA (\d+ s|\d+ min( \d+ s)?))?")


def write_manifest(workspace: Workspace, rows: int, steps: int = 2) -> None:
    text = MANIFEST.replace("ROWS", str(rows)).replace("STEPS", str(steps))
    workspace.write("m.yaml", text)


def folder_of(workspace: Workspace) -> Path:
    return workspace.folder / "outputs" / "trial"


def start(workspace: Workspace, *arguments: str, **streams: Any) -> subprocess.Popen[str]:
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen(
        [COMMAND, *arguments],
        cwd=workspace.folder,
        env=workspace.environment(),
        text=True,
        start_new_session=True,
        **given,
    )


@contextmanager
def rendering(workspace: Workspace, *arguments: str) -> Generator[subprocess.Popen[str]]:
    """A run that is killed at the end if it still lives; its words are drained."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with start(workspace, "render", "m.yaml", *arguments, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(what: Callable[[], object], limit_s: float = 150.0) -> Any:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"not within {limit_s:.0f} s")


def live_of(workspace: Workspace) -> Any:
    path = folder_of(workspace) / ".live.json"
    return json.loads(path.read_text()) if path.exists() else None


def denoising(workspace: Workspace) -> bool:
    live = live_of(workspace)
    return bool(live) and any(row["stage"] == "denoise" for row in live["in_flight"])


def on_a_terminal(workspace: Workspace, *arguments: str) -> Callable[[], str]:
    """Run a command on a terminal; gives what waits for its end and returns what it showed."""
    outer, inner = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                shown.append(os.read(outer, 4096))
            except OSError:  # the last one on the other side closed
                return

    reader = threading.Thread(target=read, daemon=True)
    process = start(workspace, *arguments, stdout=inner)
    os.close(inner)
    reader.start()

    def ended() -> str:
        _, complaint = process.communicate(timeout=60)
        assert (process.returncode, complaint) == (0, "")
        reader.join(10)
        os.close(outer)
        return b"".join(shown).decode()

    return ended


def test_another_terminal_sees_follows_and_stops_a_run_that_goes_on_later(
    workspace: Workspace,
) -> None:
    write_manifest(workspace, 60)
    with rendering(workspace, "--in-process") as run:
        wait_for(lambda: (live_of(workspace) or {}).get("rendered", 0) >= 2)
        follower = start(workspace, "status", "trial", "--watch")
        screen = on_a_terminal(workspace, "status", "--watch")
        first = second = ""
        for _ in range(20):  # between two rows there is none in flight
            told = workspace.run("status")
            assert told.returncode == 0, told.stderr
            first, second = told.stdout.splitlines()[:2]
            if second:
                break
        assert LINE.fullmatch(first), first
        assert re.match(r"  one-wave-s\d+-tiny_lite-[0-9a-f]{12}\.mp4 on cpu: [a-z]+", second)
        running = workspace.json("status")["running"]["trial"]
        assert (running["pid"], running["host"]) == (run.pid, platform.node())
        assert running["live"]["rows"] == 60
        assert len(workspace.json("log", "m.yaml")) >= 2

        clips = len(workspace.clips("trial"))
        cleaned = workspace.run("clean", "--unrecorded")
        assert (cleaned.returncode, cleaned.stdout) == (0, "Nothing to clean.\n")
        assert cleaned.stderr == "trial: renders now; left alone.\n"
        assert len(workspace.clips("trial")) >= clips

        stopped = workspace.run("cancel", "m.yaml")
        assert stopped.returncode == 0, stopped.stderr
        assert f"trial: stopping process {run.pid} on {platform.node()}; rows" in stopped.stderr
        assert run.wait(30) == 128 + signal.SIGTERM
        said, complaint = follower.communicate(timeout=60)
        assert (follower.returncode, complaint) == (0, "")
        seen = screen()

    lines = [line for line in said.splitlines() if line.startswith("trial: ")]
    assert LINE.fullmatch(lines[0])
    assert len(set(lines)) == len(lines)
    assert "rendered  low_identity" in said  # where it stands, when nothing runs any more
    assert "trial: rendering since" in seen
    assert re.search(r"\n trial +\d+ +0 +0 +0 ", seen)

    left = len(workspace.json("plan", "m.yaml")["to_run"])
    assert 0 < left < 60
    assert f"trial: stopped; {left} row{'s' * (left > 1)} of its run left." in stopped.stdout
    assert not (folder_of(workspace) / ".live.json").exists()
    assert workspace.json("status")["running"] == {}
    assert len(workspace.clips("trial")) == 60 - left
    again = workspace.run("cancel", "trial")
    assert (again.returncode, again.stdout) == (0, "trial: nothing is running.\n")
    assert workspace.run("render", "m.yaml", "--in-process", "--limit", "1").returncode == 0


@pytest.mark.parametrize("in_process", [True, False], ids=["in process", "through Prefect"])
def test_cancel_now_does_not_wait_for_the_row_in_flight(
    workspace: Workspace, in_process: bool
) -> None:
    write_manifest(workspace, 2, steps=1000)
    with rendering(workspace, *(["--in-process"] if in_process else [])) as run:
        wait_for(lambda: denoising(workspace))
        begun = datetime.now(UTC)
        told = workspace.json("cancel", "trial", "--now")
        assert told["stopped"] == {"pid": run.pid, "host": platform.node()}
        assert told["rows_left"] == 2
        assert run.wait(30) == 128 + signal.SIGTERM
    (row,) = workspace.json("log", "trial")
    assert row["status"] == "interrupted"
    # Without --now it would have had 20 s.
    assert datetime.fromisoformat(row["finished_at"]) - begun < timedelta(seconds=18)
    assert workspace.clips("trial") == []
    assert len(workspace.json("plan", "m.yaml")["to_run"]) == 2


def test_cancel_of_a_campaign_that_never_ran_is_refused(workspace: Workspace) -> None:
    done = workspace.run("cancel", "trail")
    assert done.returncode == 2
    assert "1 problem, nothing was stopped:" in done.stderr


@contextmanager
def held(workspace: Workspace, holder: str) -> Generator[None]:
    """The campaign's lock, held here under a name of our choice."""
    (folder_of(workspace) / "provenance").mkdir(parents=True)
    with (folder_of(workspace) / ".lock").open("w+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(holder)
        file.flush()
        yield


def test_run_on_another_machine_is_named_and_not_signalled(workspace: Workspace) -> None:
    with held(workspace, f"process {os.getpid()} on elsewhere"):
        done = workspace.run("cancel", "trial")
        assert done.returncode == 2
        assert (
            f"trial: it is rendered by process {os.getpid()} on elsewhere; run "
            "`lynx-engine cancel trial` there" in done.stderr
        )
        assert "trial: starting (process" in workspace.run("status").stdout


def test_process_that_holds_no_lock_is_not_ended_by_a_false_name(workspace: Workspace) -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as bystander,
        held(workspace, f"process {bystander.pid} on {platform.node()}"),
    ):
        done = workspace.run("cancel", "trial", "--now")
        assert done.returncode == 2
        assert "which does not hold it; look again in a second" in done.stderr
        assert bystander.poll() is None
        bystander.kill()


def test_watch_ends_at_once_when_nothing_runs_and_quietly_by_ctrl_c(workspace: Workspace) -> None:
    done = workspace.run("status", "--watch")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("No campaign in ")
    me = f"process {os.getpid()} on {platform.node()}"
    with held(workspace, me), start(workspace, "status", "--watch") as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == f"trial: starting ({me})\n"
        follower.send_signal(signal.SIGINT)
        said, complaint = follower.communicate(timeout=60)
        assert (follower.returncode, said, complaint) == (130, "", "")


def test_clean_removes_what_dead_runs_left_and_nothing_else(workspace: Workspace) -> None:
    write_manifest(workspace, 1)
    assert workspace.run("render", "m.yaml", "--in-process").returncode == 0
    folder, state = folder_of(workspace), workspace.folder / ".lynx"
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    litter = {
        folder / ".drafts" / "a.mp4": 10,
        folder / ".drafts" / "a.jpg": 15,
        folder / "posters" / "gone-wave-s7-tiny_lite-0123456789ab.jpg": 25,
        folder / ".live.json": 20,
        folder / ".live.json.77.tmp": 30,
        folder / "traceback-0123-a1.txt": 40,
        state / "prefect" / "trial" / "prefect.db": 500,
        state / "dask" / "dask-scratch-space" / "worker-1" / "storage": 600,
        state / "rendered-again-x1" / "outputs" / "rendered-again" / "clips" / "a.mp4": 700,
    }
    orphan = folder / "clips" / "lost-wave-s9-tiny_lite-0123456789ab.mp4"
    others = [
        state / "prefect" / ".schedules" / "prefect.db",
        state / "dask" / "dask-scratch-space" / "global.lock",
        state / "workspace.key",
    ]
    for path in (*litter, orphan, *others[:2]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"." * litter.get(path, 7000))

    asked = workspace.json("clean", "--dry-run")
    assert asked["bytes"] == sum(litter.values())
    assert asked["unrecorded"] == [str(orphan)]
    assert all(path.exists() for path in litter)

    done = workspace.run("clean", "trial")
    assert done.returncode == 0, done.stderr
    assert f"removed {folder / '.drafts' / 'a.mp4'} (10 bytes)" in done.stdout
    assert "1.9 kB in all." in done.stdout
    assert f"no record: {orphan}\n1 clip has no record; `--unrecorded` removes it." in done.stdout
    assert not any(path.exists() for path in litter)
    assert all(path.exists() for path in (orphan, *others))

    told = workspace.json("clean", "m.yaml", "--unrecorded")
    assert told["removed"] == [{"path": str(orphan), "bytes": 7000}]
    lock = folder / ".lock"  # holds the name of its last holder
    assert {p: d for p, d in kept.items() if p != lock} == {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path != lock
    }
    assert workspace.run("clean").stdout == "Nothing to clean.\n"


def test_clean_judges_no_clip_by_a_damaged_log(workspace: Workspace) -> None:
    write_manifest(workspace, 1)
    assert workspace.run("render", "m.yaml", "--in-process").returncode == 0
    (clip,) = workspace.clips("trial")
    part = next(path for path in workspace.parts("trial") if path.suffix == ".parquet")
    part.write_bytes(part.read_bytes()[:-1])
    done = workspace.run("clean", "--unrecorded")
    assert done.returncode == 0
    assert "trial: its log is damaged, so no clip of it was judged" in done.stderr
    assert clip.exists()


def test_failures_of_requests_that_a_manifest_does_not_make_any_more_are_left_out(
    workspace: Workspace,
) -> None:
    write_manifest(workspace, 1)
    broken = workspace.write("bin/ffmpeg", "#!/bin/sh\necho 'codec went missing' >&2\nexit 1\n")
    broken.chmod(0o755)
    path = f"{broken.parent}{os.pathsep}{os.environ['PATH']}"
    done = workspace.run("render", "m.yaml", "--in-process", PATH=path)
    assert done.returncode == 1
    assert "encoder: ffmpeg exited with 1: codec went missing" in done.stdout
    nothing = workspace.run("retry", "m.yaml", "--since", "0min")
    assert (nothing.returncode, nothing.stdout.partition("\n")[0]) == (
        0,
        "trial: nothing to retry.",
    )
    assert len(workspace.json("status", "m.yaml")["failures"]) == 1

    manifest = workspace.folder / "m.yaml"
    manifest.write_text(manifest.read_text().replace("waves.", "waves twice."))
    told = workspace.json("status", "m.yaml")
    assert (told["failures"], told["campaigns"]["trial"]["failed"]) == ([], 0)
    assert told["superseded"] == {"trial": 1}
    assert "1 recorded request that the manifest does not make now" in (
        workspace.run("status", "m.yaml").stdout
    )
    assert len(workspace.json("status", "trial")["failures"]) == 1


def test_retry_since_no_time_is_refused_with_examples(workspace: Workspace) -> None:
    write_manifest(workspace, 1)
    done = workspace.run("retry", "m.yaml", "--since", "yesterday")
    assert done.returncode == 2
    assert "--since: 'yesterday' is no time; write how long ago, as in 45min" in done.stderr


def test_plan_says_how_much_disk_its_clips_need(workspace: Workspace) -> None:
    write_manifest(workspace, 3)
    assert workspace.json("plan", "m.yaml")["disk_bytes"] > 3 * 20_000
    told = workspace.run("plan", "m.yaml").stdout.splitlines()[-1]
    assert re.fullmatch(r"trial: 3 to render, 0 done; about \d+ kB of disk; (ready|no cal).*", told)
