"""Schedules through the installed command and real Prefect: server, runner, worker."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.server import LocalServer
from lynx_engine.lock import lock_campaign
from tests.end_to_end.test_readme import README, matches, sessions
from tests.support.workspaces import COMMAND, Workspace

ROOT = Path(__file__).parents[2]
MANIFEST = """\
campaign: trial
defaults: {variant: tiny_lite, steps: 2, size: 32x32, frames: 5}
subjects: {one: {image: one.png, consent: {basis: public-domain}}}
prompts: {wave: A person waves.}
matrix: [{subject: one, prompt: wave, seed: 1..ROWS}]
"""
NEW_YEAR = ("--cron", "0 0 1 1 *", "--timezone", "Pacific/Auckland")


def write_manifest(workspace: Workspace, rows: int) -> None:
    workspace.write("m.yaml", MANIFEST.replace("ROWS", str(rows)))


def wait_until(true: Callable[[], Any], what: str, within_s: float = 90) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {within_s} s")


class Api:
    """Prefect's REST API, spoken without Prefect."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        for again in (True, True, True, False):
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                # SQLite is busy for a moment: Prefect's own client asks again, too.
                if not again or error.code != 503:
                    raise
                time.sleep(1)
        raise AssertionError("unreachable")

    def deployments(self) -> list[dict[str, Any]]:
        return self.post("/deployments/filter", {})

    def tick(self, *, seconds_ago: float) -> str:
        """Make the only deployment due some seconds ago; return the run's id."""
        (deployment,) = self.deployments()
        due = datetime.now(UTC) - timedelta(seconds=seconds_ago)
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}}
        path = f"/deployments/{deployment['id']}/create_flow_run"
        return self.post(path, {"state": state})["id"]

    def states(self, *ids: str) -> list[str]:
        found = self.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": list(ids)}}})
        names = {run["id"]: run["state"]["name"] for run in found}
        return [names[each] for each in ids]

    def runs(self, *ids: str) -> dict[str, dict[str, Any]]:
        found = self.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": list(ids)}}})
        return {run["id"]: run for run in found}


class Serving:
    """A `schedule serve` that runs."""

    def __init__(self, workspace: Workspace, *options: str) -> None:
        self.log = workspace.folder / "serve.txt"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [COMMAND, "schedule", "serve", *options],
                cwd=workspace.folder,
                env=workspace.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.children: list[psutil.Process] = []

    def said(self, words: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return re.search(words, self.log.read_text()) is not None

    def wait_for(self, words: str) -> None:
        wait_until(lambda: self.said(words), words)

    def api(self) -> Api:
        self.wait_for("Prefect: http")
        found = re.search(r"Prefect: (http://\S+)", self.log.read_text())
        assert found is not None
        return Api(f"{found[1]}/api")

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """End it as a terminal does (Ctrl-C, to the group) or a supervisor (SIGTERM)."""
        self.children = psutil.Process(self.process.pid).children(recursive=True)
        send = os.killpg if number is signal.SIGINT else os.kill
        send(self.process.pid, number)
        return self.process.wait(60), self.log.read_text()

    def alive(self) -> list[psutil.Process]:
        return psutil.wait_procs(self.children, timeout=5)[1]


@contextmanager
def serving(workspace: Workspace, *options: str) -> Generator[Serving]:
    started = Serving(workspace, *options)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            for child in psutil.Process(started.process.pid).children(recursive=True):
                child.kill()
            started.process.kill()
            started.process.wait()


def test_schedule_is_kept_shown_replaced_and_removed(workspace: Workspace) -> None:
    write_manifest(workspace, 1)
    told = workspace.run("schedule", "m.yaml", "--cron", "0 22 * * *", "--timezone", "Asia/Kolkata")
    assert told.returncode == 0, told.stderr
    head, *ticks = told.stdout.splitlines()[:4]
    assert head == "trial: 0 22 * * *, Asia/Kolkata"
    assert [tick[-9:] for tick in ticks] == ["22:00 IST"] * 3
    assert "A bad row fails alone" in told.stdout
    (kept,) = workspace.json("schedule", "list")
    assert (kept["campaign"], kept["manifest"], kept["skip_bad_rows"]) == ("trial", "m.yaml", True)
    assert len(kept["next"]) == 3

    again = workspace.run("schedule", "--every", "6h", "m.yaml", "--timezone", "UTC", "--json")
    assert json.loads(again.stdout)["replaced"]["cron"] == "0 22 * * *"
    listed = workspace.run("schedule", "list").stdout
    assert "every 6h" in listed
    assert "0 22" not in listed
    removed = workspace.run("schedule", "remove", "trial")
    assert removed.stdout == "trial: every 6h, UTC is removed.\n"
    assert workspace.run("schedule", "list").stdout.startswith("No schedule in ")


def test_bad_manifest_and_misspelt_command_are_refused_and_nothing_is_kept(
    workspace: Workspace,
) -> None:
    workspace.write(
        "m.yaml", MANIFEST.replace("ROWS", "1").replace("subject: one,", "subject: won,")
    )
    done = workspace.run("schedule", "m.yaml", "--every", "6h")
    assert done.returncode == 2
    assert done.stderr.startswith("1 problem, nothing was scheduled:\n  m.yaml:5: ")
    done = workspace.run("schedule", "lst")
    assert done.returncode == 2
    assert "lst: neither a manifest nor a command, did you mean 'list'?" in done.stderr
    assert not (workspace.folder / "schedules.json").exists()


def test_session_of_the_readme_prints_what_it_says(workspace: Workspace) -> None:
    shutil.copytree(ROOT / "manifests", workspace.folder / "manifests")
    section = README.partition("\n## Schedules\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    commands = sessions(block)
    assert len(commands) == 3
    for command, shown in commands:
        program, *words = shlex.split(command)
        assert program == "lynx-engine"
        done = workspace.run(*words)
        assert done.returncode == 0, done.stderr
        assert matches(shown, done.stderr + done.stdout), done.stderr + done.stdout
    assert "prefect --no-prompt deploy --all" in section
    assert "prefect worker start --pool studio" in section


def test_help_shows_every_form_with_an_example(workspace: Workspace) -> None:
    plain = " ".join(workspace.run("schedule", "--help").stdout.split())
    for form in ("--cron", "--every 6h", "schedule list", "schedule remove", "schedule serve"):
        assert f"lynx-engine {form}" in plain or form in plain
    options = " ".join(workspace.run("schedule", "m.yaml", "--help").stdout.split())
    assert "--timezone" in options
    assert "--no-skip-bad-rows" in options


def test_silent_server_is_told_without_its_password(workspace: Workspace) -> None:
    address = "http://me:secret@127.0.0.1:9/api"
    done = workspace.run("schedule", "serve", PREFECT_API_URL=address)
    assert done.returncode == 5
    assert "no Prefect API answers at http://127.0.0.1:9/api" in done.stderr
    assert "secret" not in done.stderr + done.stdout


def test_damaged_schedules_are_named_and_not_served(workspace: Workspace) -> None:
    workspace.write("schedules.json", '{"schedules": []}\n')
    for command in (["list"], ["serve"]):
        done = workspace.run("schedule", *command)
        assert done.returncode == 4
        assert "schedules.json: damaged" in done.stderr


def test_missed_ticks_become_one_and_none_overlaps_another(workspace: Workspace) -> None:
    write_manifest(workspace, 40)
    assert workspace.run("schedule", "m.yaml", *NEW_YEAR).returncode == 0
    with serving(workspace, "--at-once", "3") as served:
        served.wait_for("Serving trial")
        api = served.api()

        # Three ticks came due while nothing served: one renders.
        late = [api.tick(seconds_ago=ago) for ago in (300, 200, 100)]
        wait_until(lambda: workspace.clips("trial"), "a clip")
        # Two more while that one renders: one follows it, and finds nothing left to do.
        more = [api.tick(seconds_ago=20), api.tick(seconds_ago=10)]
        done = {"Completed", "Coalesced"}
        wait_until(lambda: set(api.states(*late, *more)) == done, "the end of all five", 120)
        assert api.states(*late) == ["Coalesced", "Coalesced", "Completed"]
        assert api.states(*more) == ["Coalesced", "Completed"]
        runs = api.runs(*late, *more)
        assert runs[late[2]]["state"]["message"] == "40 rendered, 0 failed, 0 left"
        assert runs[more[1]]["state"]["message"] == "nothing to do; 40 clips are done"
        charged = workspace.json("log", "trial")
        assert [(r["status"], r["attempt"]) for r in charged] == [("rendered", 1)] * 40

        # A render by hand holds the campaign: ticks wait for it, and the last of them follows.
        with lock_campaign(workspace.folder / "outputs" / "trial"):
            first = api.tick(seconds_ago=2)
            wait_until(lambda: api.states(first) == ["Running"], "waiting")
            second = api.tick(seconds_ago=1)
            wait_until(lambda: api.states(first, second) == ["Coalesced", "Running"], "overtaken")
        wait_until(lambda: api.states(second) == ["Completed"], "its turn")

        refused = workspace.run("schedule", "serve")
        assert refused.returncode == 6
        assert "are being served by process" in refused.stderr
        assert workspace.run("schedule", "remove", "trial").returncode == 0
        served.wait_for("trial: removed")
        assert api.deployments() == []
        code, said = served.stop(signal.SIGTERM)
    assert code == 143
    assert "Traceback" not in said
    assert served.alive() == []


def test_schedule_ticks_by_itself_and_ctrl_c_leaves_a_campaign_that_goes_on(
    workspace: Workspace,
) -> None:
    rows = [f'  - {{text: "sleep=2", seed: {n}}}' for n in range(40)]
    head = ["campaign: trial", "defaults: {variant: sleeper}", "rows:"]
    workspace.write("m.yaml", [*head, *rows])
    with serving(workspace) as served:
        served.wait_for("no schedule yet")
        # Seconds are not to be had on the command line; a tick comes soon enough for a test.
        program = (
            "from pathlib import Path\n"
            "from flows.schedules.book import new_schedule, put_schedule\n"
            "from lynx_engine.settings import load_settings\n"
            "s = load_settings(Path('m.yaml'))\n"
            "put_schedule(new_schedule('trial', Path('m.yaml'), s, timezone='UTC', every='20s'), s)"
        )
        subprocess.run([sys.executable, "-c", program], cwd=workspace.folder, check=True)
        served.wait_for("trial: every 20s, UTC")
        wait_until(lambda: len(workspace.clips("trial")) >= 2, "two clips")
        started = time.monotonic()
        code, said = served.stop(signal.SIGINT)
    assert code == 130
    assert time.monotonic() - started < 45
    assert "Traceback" not in said
    assert served.alive() == []
    left = len(workspace.json("plan", "m.yaml")["to_run"])
    assert 0 < left < 40


def test_prefect_yaml_deploys_and_a_worker_of_the_pool_renders(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(workspace, 1)
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    # What `prefect server start` would be, on a free port.
    server = LocalServer(tmp_path / "home", start_s=90)
    variables = {
        **os.environ,
        **workspace.variables,
        "PREFECT_API_URL": server.url,
        "LYNX_MANIFEST": str(workspace.folder / "m.yaml"),
    }

    def prefect(*words: str) -> str:
        done = subprocess.run(
            [COMMAND.parent / "prefect", "--no-prompt", *words],
            cwd=ROOT,
            env=variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        server.wait_until_ready()
        prefect("work-pool", "create", "studio", "--type", "process")
        prefect("deploy", "--all")
        api = Api(server.url)
        (deployment,) = api.deployments()
        (schedule,) = deployment["schedules"]
        assert schedule["schedule"]["cron"] == "0 22 * * *"
        assert deployment["parameters"]["manifest"] == variables["LYNX_MANIFEST"]
        run = api.tick(seconds_ago=1)
        prefect("worker", "start", "--pool", "studio", "--run-once")
        state = api.runs(run)[run]["state"]
    finally:
        server.stop()
    assert (state["name"], state["message"]) == ("Completed", "1 rendered, 0 failed, 0 left")
    assert len(workspace.clips("trial")) == 1
