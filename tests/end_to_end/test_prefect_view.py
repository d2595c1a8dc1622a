"""What Prefect shows of a campaign: one task run a row, with its true state."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.support.workspaces import COMMAND, Workspace


def write_manifest(workspace: Workspace, prompts: list[str]) -> None:
    rows = [f'  - {{text: "{text}", seed: {n}}}' for n, text in enumerate(prompts)]
    head = ["campaign: trial", "defaults: {variant: sleeper}", "rows:"]
    workspace.write("m.yaml", [*head, *rows])


def query(workspace: Workspace, sql: str) -> list[Any]:
    database = workspace.folder / ".lynx" / "prefect" / "trial" / "prefect.db"
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_states_are_right_after_a_device_process_died(workspace: Workspace) -> None:
    once = workspace.folder / "once"
    # Long enough for the progress to be told on the way.
    write_manifest(workspace, ["sleep=8", f"fault=exit once={once}", "fault=segfault"])
    done = workspace.run("render", "m.yaml", "--devices", "cpu:2")
    assert done.returncode == 1, done.stderr
    assert "Prefect shows this run at http://127.0.0.1:" in done.stderr

    tasks: dict[str, str] = dict(query(workspace, "select name, state_type from task_run"))
    by_seed = {re.findall("-s([0-9]+)-sleeper-", name)[0]: state for name, state in tasks.items()}
    assert by_seed == {"0": "COMPLETED", "1": "COMPLETED", "2": "FAILED"}
    assert all(name.startswith("render none-") and name.endswith(".mp4") for name in tasks)
    assert query(workspace, "select name, state_type from flow_run") == [("trial", "FAILED")]

    log = (workspace.folder / "outputs/trial/campaign.log").read_text()
    assert "Prefect shows no artifact" not in log
    homes = sorted(path.name for path in (workspace.folder / ".lynx/prefect").iterdir())
    assert homes == ["trial"]
    artifacts = {
        kind: (key, data)
        for key, kind, data in query(workspace, "select key, type, data from artifact")
    }
    key, progress = artifacts["progress"]
    assert (key, float(progress)) == ("trial-progress", 100.0)
    key, table = artifacts["table"]
    rows = json.loads(json.loads(table))
    assert key == "trial-results"
    assert [row["result"] for row in rows] == ["failed: worker_died", "rendered", "rendered"]

    # Each row leads to its clip and to its record, the run to its report; all of them are there.
    for row in rows:
        reference = re.fullmatch("`lynx-engine show ([0-9a-f]{12})`", row["log row"])
        assert reference is not None
        (record,) = workspace.json("show", reference[1])
        assert record["status"] == row["result"].partition(":")[0]
        link = re.fullmatch(r"\[(.*)\]\(file://(.*)\)", row["clip"])
        assert (link is None) == (record["clip"] == "")
        if link is not None:
            assert Path(unquote(link[2])).is_file()
            assert link[1].replace("\\", "") == record["clip"] == Path(unquote(link[2])).name
    key, link = artifacts["markdown"]
    page = workspace.folder / "outputs/trial/report.html"
    assert (key, json.loads(link)) == ("trial-report", f"[report of trial]({page.as_uri()})")
    assert page.is_file()
    for row in rows:
        assert f'data-card="{row["log row"].split()[-1].rstrip("`")}' in page.read_text()


def test_run_that_was_killed_is_shown_as_crashed_and_its_database_may_be_deleted(
    workspace: Workspace,
) -> None:
    write_manifest(workspace, ["sleep=1"] * 6)
    with subprocess.Popen(
        [COMMAND, "render", "m.yaml"],
        cwd=workspace.folder,
        env=workspace.environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[1/6]"):
                break
        # Prefect sends what happened in batches.
        time.sleep(1.5)
        os.kill(process.pid, signal.SIGKILL)
    again = workspace.run("render", "m.yaml", "--limit", "1")
    assert again.returncode == 0, again.stderr
    states = [state for (state,) in query(workspace, "select state_type from flow_run")]
    assert sorted(states) == ["COMPLETED", "CRASHED"]
    tasks = {state for (state,) in query(workspace, "select state_type from task_run")}
    assert tasks <= {"COMPLETED", "CRASHED"}

    assert workspace.run("clean", "trial").returncode == 0
    assert not (workspace.folder / ".lynx" / "prefect" / "trial").exists()
    last = workspace.run("render", "m.yaml")
    assert last.returncode == 0, last.stderr
    assert len(workspace.clips("trial")) == 6
    log = workspace.json("log", "trial")
    assert [row["status"] for row in log].count("rendered") == 6
