"""The report through the installed command: at the end of each run, and when asked for."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

from tests.support.workspaces import COMMAND, Workspace

MANIFEST = """\
campaign: trial
defaults: {variant: sleeper}
rows:
- {text: stripes, seed: 1}
- {text: fault=memory, seed: 2}
"""
SLOW = 'campaign: slow\ndefaults: {variant: sleeper}\nrows: [{text: "sleep=12", seed: 1}]\n'


def page_of(workspace: Workspace, campaign: str = "trial") -> Path:
    return workspace.folder / "outputs" / campaign / "report.html"


def test_run_with_a_failure_ends_with_its_report_and_an_idle_one_leaves_it_alone(
    workspace: Workspace,
) -> None:
    workspace.write("m.yaml", MANIFEST)
    page = page_of(workspace)
    first = workspace.run("render", "m.yaml", "--in-process")
    assert first.returncode == 1
    assert first.stdout.splitlines()[-1] == f"Report: {page}"
    assert "the null renderer is too big." in page.read_text(encoding="utf-8")
    written = page.stat().st_mtime_ns

    # The failed row is tried again: something ran, so the page is new.
    again = workspace.run("render", "m.yaml", "--in-process", "--json")
    assert json.loads(again.stdout)["report"] == str(page)
    assert page.stat().st_mtime_ns > written

    only = ("--only", "seed=1")
    written = page.stat().st_mtime_ns
    idle = workspace.run("render", "m.yaml", *only)
    assert idle.stdout.splitlines()[-1] == f"Report: {page}"
    assert page.stat().st_mtime_ns == written, "nothing ran"
    page.unlink()
    assert workspace.run("render", "m.yaml", *only).returncode == 0
    assert page.is_file(), "nothing ran, but the page was gone"
    page.unlink()
    off = workspace.run("render", "m.yaml", "--in-process", LYNX_REPORT="false")
    assert "Report" not in off.stdout
    assert not page.exists()


def test_report_that_cannot_be_written_is_one_line_in_the_log_and_nothing_else(
    workspace: Workspace,
) -> None:
    workspace.write("m.yaml", MANIFEST)
    page_of(workspace).mkdir(parents=True)
    done = workspace.run("render", "m.yaml", "--in-process", "--only", "seed=1")
    assert done.returncode == 0, done.stderr
    assert "Report" not in done.stdout
    assert "Traceback" not in done.stderr
    log = (page_of(workspace).parent / "campaign.log").read_text()
    (line,) = [line for line in log.splitlines() if "report" in line]
    assert "WARNING flows.reports: the report was not written: IsADirectoryError: " in line

    asked = workspace.run("report", "trial")
    assert (asked.returncode, asked.stdout) == (5, "")
    assert "Is a directory. Nothing is lost: " in asked.stderr


def test_interrupted_run_has_a_report_too(workspace: Workspace) -> None:
    workspace.write("slow.yaml", SLOW)
    command = [COMMAND, "render", "slow.yaml", "--in-process"]
    with subprocess.Popen(
        command,
        cwd=workspace.folder,
        env=workspace.environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None and "denoise" not in workspace.run("status", "slow").stdout:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        time.sleep(1)  # two at once may count as one
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert 'data-status="interrupted"' in page_of(workspace, "slow").read_text(encoding="utf-8")


def test_reports_of_all_campaigns_are_written_around_a_damaged_log(workspace: Workspace) -> None:
    for name in ("good", "bad"):
        workspace.write(f"{name}.yaml", MANIFEST.replace("trial", name))
        done = workspace.run("render", f"{name}.yaml", "--in-process", "--only", "seed=1")
        assert done.returncode == 0, done.stderr
        page_of(workspace, name).unlink()
    assert workspace.json("report", "good.yaml", "good", "--no-photos") == {
        "reports": {"good": str(page_of(workspace, "good"))},
        "damaged": [],
    }
    (part,) = workspace.parts("bad")
    part.write_bytes(part.read_bytes()[:-1])
    page_of(workspace, "good").unlink()
    told = workspace.run("report")
    assert told.returncode == 4
    assert told.stdout == f"{page_of(workspace, 'good')}\n"
    assert "1 damaged, missing or foreign file in the log" in told.stderr
    assert str(part) in told.stderr
    assert not page_of(workspace, "bad").exists()
    listed = json.loads(workspace.run("report", "--json").stdout)
    assert (list(listed["reports"]), len(listed["damaged"])) == (["good"], 1)

    unknown = workspace.run("report", "goood")
    assert unknown.returncode == 2
    assert "1 problem, no report was written:" in unknown.stderr
    assert "did you mean 'good'?" in unknown.stderr


def test_pages_are_shown_in_the_browser_that_the_user_named(workspace: Workspace) -> None:
    workspace.write("m.yaml", MANIFEST)
    assert workspace.run("render", "m.yaml", "--in-process", "--only", "seed=1").returncode == 0
    shown = workspace.folder / "shown"
    browser = workspace.write("browser", f'#!/bin/sh\necho "$1" > {shown}\n')
    browser.chmod(0o755)
    done = workspace.run("report", "trial", "--open", BROWSER=f"{browser} %s")
    assert done.returncode == 0, done.stderr
    assert shown.read_text().strip() == page_of(workspace).as_uri()
