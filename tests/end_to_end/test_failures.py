"""Rows that fail late, and runs that are stopped: the others go on, and the next run mends it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from lynx_engine.media.video import find_ffmpeg
from tests.support.workspaces import COMMAND, Workspace

MANIFEST = """\
campaign: trial
defaults: {variant: tiny_lite, steps: 2}
subjects: {one: {image: one.png, consent: {basis: public-domain}}}
prompts: {wave: A person waves.}
matrix: [{subject: one, prompt: wave, seed: 1..ROWS}]
"""


def write_manifest(workspace: Workspace, rows: int) -> None:
    workspace.write("m.yaml", MANIFEST.replace("ROWS", str(rows)))


def test_encoder_that_fails_for_one_row_stops_no_other_and_retry_mends_it(
    workspace: Workspace, tmp_path: Path
) -> None:
    write_manifest(workspace, 3)
    rows = workspace.json("plan", "m.yaml")["to_run"]
    victim = next(row for row in rows if row["request"]["seed"] == 2)
    wrapper = tmp_path / "bin" / "ffmpeg"
    wrapper.parent.mkdir()
    wrapper.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *{victim["job_id"][:12]}*) echo "codec went missing" >&2; exit 1;; esac\n'
        f'exec {find_ffmpeg()} "$@"\n'
    )
    wrapper.chmod(0o755)
    path = f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}"

    done = workspace.run("render", "m.yaml", "--in-process", PATH=path)
    assert done.returncode == 1
    assert "2 rendered, 1 failed" in done.stdout
    assert "encoder: ffmpeg exited with 1: codec went missing" in done.stdout
    assert "`lynx-engine retry m.yaml` tries the failed rows again." in done.stdout
    assert len(workspace.clips("trial")) == 2
    told = workspace.json("status", "trial")
    assert told["failures"][0]["code"] == "encoder"

    (row,) = workspace.json("plan", "m.yaml")["to_run"]
    assert row["why"].startswith("failed before (encoder: ")
    nothing = workspace.run("retry", "m.yaml", "--code", "weights")
    assert (nothing.returncode, nothing.stdout.partition("\n")[0]) == (
        0,
        "trial: nothing to retry.",
    )
    mended = workspace.run("retry", "m.yaml", "--in-process", "--code", "encoder")
    assert mended.returncode == 0, mended.stderr
    assert len(workspace.clips("trial")) == 3
    attempts = [r["attempt"] for r in workspace.json("log", "trial") if r["seed"] == 2]
    assert attempts == [1, 2, 3, 4, 5], "tried three times more, then by retry"


def test_retry_of_an_unknown_status_is_refused(workspace: Workspace) -> None:
    write_manifest(workspace, 1)
    done = workspace.run("retry", "m.yaml", "--status", "faild")
    assert done.returncode == 2
    assert "--status: unknown value 'faild', did you mean 'failed'?" in done.stderr


def test_damaged_log_is_named_and_nothing_is_rendered_over_it(workspace: Workspace) -> None:
    write_manifest(workspace, 1)
    assert workspace.run("render", "m.yaml", "--in-process").returncode == 0
    (part,) = workspace.parts("trial")
    part.write_bytes(part.read_bytes()[:-1])
    for command in (["render", "m.yaml"], ["status"], ["log", "trial"]):
        done = workspace.run(*command)
        assert done.returncode == 4
        assert f"{part.name}: damaged" in done.stderr


@pytest.mark.parametrize("in_process", [True, False], ids=["in process", "through Prefect"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_stopped_run_exits_by_its_signal_and_the_next_one_goes_on(
    workspace: Workspace, number: signal.Signals, code: int, in_process: bool
) -> None:
    write_manifest(workspace, 8)
    mode = ["--in-process"] if in_process else []
    with subprocess.Popen(
        [COMMAND, "render", "m.yaml", *mode],
        cwd=workspace.folder,
        env=workspace.environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[3/"):
                break
        children = psutil.Process(process.pid).children(recursive=True)
        # Ctrl-C in a terminal reaches every process of the group, SIGTERM the named one.
        send = os.killpg if number is signal.SIGINT else os.kill
        send(process.pid, number)
        stopped = time.monotonic()
        told, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert time.monotonic() - stopped < 20
    assert "Traceback" not in said
    assert said.startswith("Stopping: rows in flight get 20 s.") or "interrupted" not in said
    assert "Stopped. Run the same command again to go on." in told
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []

    left = len(workspace.json("plan", "m.yaml")["to_run"])
    assert 0 < left < 8
    again = workspace.run("render", "m.yaml", "--in-process")
    assert again.returncode == 0, again.stderr
    assert f"{left} rendered, {8 - left} done before" in again.stdout
    assert len(workspace.clips("trial")) == 8
    assert list((workspace.folder / "outputs/trial/.drafts").iterdir()) == []
    charged = [r for r in workspace.json("log", "trial") if r["status"] == "rendered"]
    assert len(charged) == 8


def test_quiet_run_says_what_went_wrong_and_nothing_else(workspace: Workspace) -> None:
    write_manifest(workspace, 1)
    broken = workspace.write("bin/ffmpeg", "#!/nonexistent/interpreter\n")
    broken.chmod(0o755)
    done = workspace.run("render", "m.yaml", "--in-process", "-q", PATH=str(broken.parent))
    assert (done.returncode, done.stdout) == (1, "")
    assert "encoder: " in done.stderr
    assert "cannot be run (No such file or directory)" in done.stderr
    well = workspace.run("render", "m.yaml", "--in-process", "-q")
    assert (well.returncode, well.stdout, well.stderr) == (0, "", "")


def test_damage_in_one_log_does_not_hide_the_other_campaigns(workspace: Workspace) -> None:
    write_manifest(workspace, 1)
    assert workspace.run("render", "m.yaml", "--in-process").returncode == 0
    other = workspace.folder / "outputs" / "other" / "provenance"
    other.mkdir(parents=True)
    (other / ".DS_Store").touch()
    (other / "notes.txt").touch()
    told = workspace.run("status")
    assert told.returncode == 4
    assert "trial" in told.stdout
    assert "notes.txt: not a part of the log" in told.stderr
    assert ".DS_Store" not in told.stderr
    (clip,) = workspace.clips("trial")
    shown = workspace.run("show", clip)
    assert shown.returncode == 0
    assert clip.name in shown.stdout


def test_clip_that_was_cut_renders_again_and_show_does_not_vouch_for_it(
    workspace: Workspace,
) -> None:
    write_manifest(workspace, 1)
    assert workspace.run("render", "m.yaml", "--in-process").returncode == 0
    (clip,) = workspace.clips("trial")
    whole = clip.read_bytes()
    clip.write_bytes(whole[:100])
    shown = workspace.run("show", clip)
    assert "its content is not what was recorded" in shown.stderr
    (row,) = workspace.json("plan", "m.yaml")["to_run"]
    assert row["reason"] == "missing clip"
    assert workspace.run("render", "m.yaml", "--in-process").returncode == 0
    assert clip.read_bytes() == whole


def test_renamed_prompt_keeps_its_clip_and_the_plan_names_the_file_that_is_there(
    workspace: Workspace,
) -> None:
    write_manifest(workspace, 1)
    assert workspace.run("render", "m.yaml", "--in-process").returncode == 0
    manifest = workspace.folder / "m.yaml"
    manifest.write_text(
        manifest.read_text().replace("wave:", "hello:").replace(" wave,", " hello,")
    )
    (done,) = workspace.json("plan", "m.yaml")["done"]
    assert done["clip"] == workspace.clips("trial")[0].name


def test_place_that_cannot_be_written_pauses_with_exit_5(workspace: Workspace) -> None:
    write_manifest(workspace, 1)
    workspace.write("outputs", "a file where a folder is due")
    done = workspace.run("render", "m.yaml", "--in-process")
    assert done.returncode == 5
    assert "make room, or make it writable" in done.stderr
    assert "Traceback" not in done.stderr


def test_manifest_of_another_workspace_renders_there(workspace: Workspace, tmp_path: Path) -> None:
    write_manifest(workspace, 1)
    elsewhere = Workspace(tmp_path / "elsewhere", workspace.variables)
    elsewhere.folder.mkdir()
    (elsewhere.folder / "lynx.toml").touch()
    manifest = workspace.folder / "m.yaml"
    assert elsewhere.run("render", manifest, "--in-process").returncode == 0
    assert len(workspace.clips("trial")) == 1
    assert not (elsewhere.folder / "outputs").exists()
    assert elsewhere.json("status", manifest)["campaigns"]["trial"]["rendered"] == 1


def test_two_campaigns_of_one_workspace_render_beside_each_other(workspace: Workspace) -> None:
    write_manifest(workspace, 2)
    (workspace.folder / "other.yaml").write_text(
        (workspace.folder / "m.yaml").read_text().replace("campaign: trial", "campaign: other")
    )
    runs = [
        subprocess.Popen(
            [COMMAND, "render", manifest],
            cwd=workspace.folder,
            env=workspace.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for manifest in ("m.yaml", "other.yaml")
    ]
    told = [run.communicate(timeout=200)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    assert len(workspace.clips("trial")) == len(workspace.clips("other")) == 2
