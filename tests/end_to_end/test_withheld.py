"""A withheld clip as a user meets it: the installed command, Prefect, a device process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.people import registering
from tests.support.workspaces import Workspace

HEAD = "campaign: trial\ndefaults: {variant: people, frames: 5}\nrows:\n"
FLAGGED = '  - {text: "red=2", seed: 1}\n'
CLEAN = '  - {text: "stripes", seed: 2}\n'
WHY = "stub 1 saw 0.8"


@pytest.fixture
def studio(tmp_path: Path) -> Workspace:
    folder = tmp_path / "studio"
    folder.mkdir()
    variables = {"PYTHONPATH": registering(tmp_path / "site"), "LYNX_CACHE": str(tmp_path / "c")}
    workspace = Workspace(folder, variables)
    workspace.write("lynx.toml", 'classifiers = ["tests.support.classifiers:load_red"]\n')
    workspace.write("m.yaml", HEAD + FLAGGED + CLEAN)
    return workspace


def test_withheld_row_is_told_wherever_rows_are_told_and_never_runs_again_as_it_is(
    studio: Workspace,
) -> None:
    first = studio.run("render", "m.yaml", "--devices", "cpu")
    assert first.returncode == 1, first.stdout + first.stderr
    assert "withheld none-" in first.stderr
    assert WHY in first.stderr
    assert "trial: 1 rendered, 1 withheld. Clips: " in first.stdout
    assert "people-" in first.stdout
    assert f": {WHY}" in first.stdout
    assert "failed" not in first.stdout
    assert "retry" not in first.stdout
    (clip,) = studio.clips("trial")
    assert "-s2-people-" in clip.name
    drafts = studio.folder / "outputs/trial/.drafts"
    assert list(drafts.iterdir()) == []
    log = (studio.folder / "outputs/trial/campaign.log").read_text()
    assert f": {WHY}" in log

    again = studio.run("render", "m.yaml")
    assert again.returncode == 1
    assert "nothing to do; 1 clip is done, 1 withheld" in again.stdout
    assert "m.yaml:4: held: withheld by the safety check; it runs again when its request" in (
        again.stderr
    )
    retried = studio.run("retry", "m.yaml")
    assert (retried.returncode, "nothing to retry" in retried.stdout) == (1, True)
    assert "held: withheld by the safety check" in retried.stderr

    told = studio.run("status", "trial")
    assert f"m.yaml:4: withheld: {WHY}" in told.stdout.replace("\n", " ")
    withheld = [row for row in studio.json("log", "trial") if row["status"] == "withheld"]
    assert [(row["code"], row["safety_frame"], row["attempt"]) for row in withheld] == [
        ("safety", 2, 1)
    ]
