"""What `verify` finds, and that the lines it prints mend it."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from flows.run import render
from lynx_engine import verification
from lynx_engine.cli.app import app
from lynx_engine.digest import digest_file
from lynx_engine.errors import Problem
from lynx_engine.provenance.published import readable_records
from lynx_engine.provenance.store import read_log
from lynx_engine.rerendering import Outcome, draw, render_again
from lynx_engine.settings import Settings
from lynx_engine.verification import Fault, Part, look_at_clip, take_inventory, verify
from tests.faults.test_files import flip_in_the_middle
from tests.support.workspaces import COMMAND, Workspace

CLIPS = 6


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = Workspace(tmp_path_factory.mktemp("verify") / "studio")
    workspace.write("lynx.toml", 'evaluator = "none"\n')
    lines = ["campaign: trial", "defaults: {variant: sleeper}", "rows:"]
    rows = [f"  - {{text: t, seed: {n}}}" for n in range(CLIPS)]
    workspace.write("my trial.yaml", [*lines, *rows])
    done = workspace.run("render", "my trial.yaml", "--in-process", "--quiet")
    assert done.returncode == 0, done.stderr
    return workspace.folder


@pytest.fixture
def studio(rendered: Path, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(rendered, tmp_path / "studio")))


def settings_of(studio: Workspace) -> Settings:
    return Settings(workspace=studio.folder, evaluator="none")


def flip(path: Path) -> None:
    path.write_bytes(flip_in_the_middle(path.read_bytes()))


def run(studio: Workspace, *words: str) -> Result:
    """Run a command in this process: a fresh one takes a second to import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(studio.folder)
        done = CliRunner().invoke(app, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def damage_of(studio: Workspace) -> dict[str, Any]:
    done = run(studio, "verify", "--json")
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == (4 if told["mend"] else 0)
    return told


def run_lines(studio: Workspace, told: list[str]) -> None:
    """Run the lines of `mend`, those of ours in this process."""
    for line in told:
        if line.startswith("lynx-engine"):
            more = [] if " show " in line else ["--in-process", "--quiet"]
            assert run(studio, *shlex.split(line)[1:], *more).exit_code == 0
        else:
            subprocess.run(["bash", "-c", line], cwd=studio.folder, check=True)


def mend(studio: Workspace, told: list[str]) -> None:
    """Run the lines of `mend` as a person does, in a shell and in their order."""
    for line in told:
        command = line.replace("lynx-engine", shlex.quote(str(COMMAND)), 1)
        more = " --in-process --quiet" if " --damaged" in line or " render " in line else ""
        done = subprocess.run(
            ["bash", "-c", f"{command}{more}"],
            cwd=studio.folder,
            env=studio.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr)


def test_intact_campaign_is_said_to_be_as_recorded(studio: Workspace) -> None:
    done = studio.run("verify", "--deep", "--rerender", "1", "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"trial: {CLIPS} clips and 1 file of the log are as recorded.\n"
    assert "rendered again to the same frames" in done.stderr
    assert "--seed 7" in done.stderr


def test_damaged_and_missing_clips_are_listed_and_the_printed_line_mends_them(
    studio: Workspace,
) -> None:
    flipped, deleted, cut, *_ = studio.clips("trial")
    size, before = flipped.stat().st_size, [digest_file(c) for c in studio.clips("trial")]
    flip(flipped)
    deleted.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    assert flipped.stat().st_size == size
    done = studio.run("verify", "trial")
    assert done.returncode == 4
    assert "Damage in 3 places" in done.stderr
    assert f"{flipped.name}: damaged: its bytes are not those that were recorded." in done.stderr
    assert f"{deleted.name}: is not there." in done.stderr
    assert f"{cut.name}: has" in done.stderr
    assert "lynx-engine retry 'my trial.yaml' --damaged" in done.stderr
    told = json.loads(studio.run("verify", "--json").stdout)
    assert told["mend"] == ["lynx-engine retry 'my trial.yaml' --damaged"]
    faults = [damage["fault"] for damage in told["campaigns"][0]["damage"]]
    assert sorted(faults) == ["bytes", "bytes", "missing"]
    mend(studio, told["mend"])
    assert studio.run("verify", "--deep", "--quiet").returncode == 0
    assert [digest_file(clip) for clip in studio.clips("trial")] == before
    attempts = read_log("trial", settings=settings_of(studio)).height
    assert attempts == CLIPS + 3, "whole clips were not rendered again"


def test_damaged_log_is_named_and_the_printed_lines_mend_it(studio: Workspace) -> None:
    (log,) = studio.parts("trial")
    flip(log)
    told = damage_of(studio)
    (campaign,) = told["campaigns"]
    assert [(d["fault"], Path(d["path"]).name) for d in campaign["damage"]] == [("log", log.name)]
    assert len(campaign["strays"]) == CLIPS, "what no readable record names is named, too"
    take_out, render_it = told["mend"]
    assert Path(shlex.split(render_it)[2]).samefile(studio.folder / "my trial.yaml")
    run_lines(studio, [take_out, render_it])
    done = run(studio, "verify", "--deep")
    assert (done.exit_code, done.stderr) == (0, "")


def test_line_that_mends_a_log_nobody_can_read_names_no_manifest_of_another_campaign(
    studio: Workspace,
) -> None:
    text = (studio.folder / "my trial.yaml").read_text()
    (studio.folder / "my trial.yaml").write_text(text.replace("trial", "another"))
    (studio.folder / "broken.yaml").write_text("campaign: [trial")
    flip(studio.parts("trial")[0])
    _, render_it, *words = damage_of(studio)["mend"]
    assert render_it == "lynx-engine render MANIFEST"
    assert words[0].startswith("# MANIFEST stands for")


def test_manifest_that_lies_elsewhere_now_is_named_if_it_asks_for_the_row(
    studio: Workspace,
) -> None:
    path, folder = studio.folder / "my trial.yaml", studio.folder / "manifests"
    folder.mkdir()
    (folder / "a.yaml").write_text(path.read_text().replace("seed", "steps: 7, seed"))
    moved = path.rename(folder / "b.yaml")
    flip(studio.clips("trial")[0])
    (line,) = damage_of(studio)["mend"]
    assert shlex.split(line) == ["lynx-engine", "retry", str(moved), "--damaged"]


def test_whole_parts_beside_a_damaged_one_go_on_being_verified(studio: Workspace) -> None:
    done = run(studio, "retry", "my trial.yaml", "--damaged", "--in-process", "--quiet")
    assert done.exit_code == 0, done.stderr
    flip(studio.clips("trial")[0])
    (studio.parts("trial")[0].parent / "notes.txt").write_text("mine")
    told = damage_of(studio)
    assert [d["fault"] for d in told["campaigns"][0]["damage"]] == ["log", "bytes"]
    take_out, *rest = told["mend"]
    assert "notes.txt" in take_out
    run_lines(studio, [take_out, *rest])
    assert run(studio, "verify").exit_code == 0


def test_clip_that_no_row_asks_for_any_more_is_told_with_its_manifest(studio: Workspace) -> None:
    path = studio.folder / "my trial.yaml"
    kept, dropped = path.read_text().splitlines()[:-1], studio.clips("trial")[CLIPS - 1]
    path.write_text("\n".join(kept))
    flip(dropped)
    told = damage_of(studio)
    words, line = told["mend"]
    assert words.startswith(f"# {dropped.name}: its row is not in the manifest any more")
    run_lines(studio, [line])
    (written,) = studio.folder.glob("again-*.yaml")
    assert run(studio, "check", str(written)).exit_code == 0
    dropped.unlink()
    done = run(studio, "verify")
    assert done.exit_code == 0, "deleted for a reason is no damage"
    assert "gone; its row is not in the manifest any more" in done.stderr
    # Nor is it counted, or drawn to be rendered again.
    assert done.stdout.startswith(f"trial: {CLIPS - 1} clips")


def test_stray_clip_is_named_and_is_no_damage(studio: Workspace) -> None:
    stray = studio.clips("trial")[0].with_name("mine.mp4")
    stray.write_bytes(b"mine")
    done = run(studio, "verify")
    assert done.exit_code == 0
    assert f"{stray.name}: no record names it." in done.stderr


def test_clip_that_a_run_publishes_meanwhile_is_no_stray(
    studio: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is read while the last clip has its name already, and its record not yet."""
    newest = studio.clips("trial")[-1].name
    reads: list[int] = []

    def behind(folder: Path) -> tuple[pl.DataFrame, int, tuple[Problem, ...]]:
        reads.append(1)
        log, files, problems = readable_records(folder)
        return log.filter(pl.col("clip") != newest) if len(reads) == 1 else log, files, problems

    monkeypatch.setattr(verification, "readable_records", behind)
    assert take_inventory("trial", settings_of(studio)).strays == ()


def test_parts_of_a_campaign_are_disjoint_and_complete(studio: Workspace) -> None:
    settings = settings_of(studio)
    for number in range(40):
        (studio.clips("trial")[0].parent / f"stray-{number}").touch()
    for of in (1, 2, 7):
        parts = [take_inventory("trial", settings, Part(k, of)) for k in range(1, of + 1)]
        clips = [name for part in parts for name in part.clips]
        strays = [path for part in parts for path in part.strays]
        assert sorted(clips) == [path.name for path in studio.clips("trial")]
        assert len(strays) == len(set(strays)) == 40
        assert of == 1 or max(len(part.strays) for part in parts) < 40


@pytest.mark.parametrize("text", ["0/7", "8/7", "1/0", "1", "a/b", "1/7/9", "-1/7", ""])
def test_what_is_no_part_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write K/N with K from 1 to N, as in 1/7"):
        Part.parse(text)


def recorded(studio: Workspace, **changes: Any) -> tuple[Any, str]:
    """Return an inventory whose first record says something else than the file."""
    inventory = take_inventory("trial", settings_of(studio))
    name, record = next(iter(inventory.clips.items()))
    return replace(inventory, clips={name: {**record, **changes}}), name


@pytest.mark.parametrize(
    ("changes", "fault", "told"),
    [
        ({"job_id": "0" * 64}, Fault.TAGS, "its comment tag does not name job 000"),
        ({"frames_digest": "0" * 64}, Fault.FRAMES, "decodes to other frames"),
        ({"clip_frames": 81}, Fault.FRAMES, "81 of 32x32 at 8 were recorded"),
        ({"clip_fps": 24.0}, Fault.FRAMES, "5 of 32x32 at 24 were recorded"),
    ],
)
def test_record_that_says_otherwise_than_the_clip_is_damage(
    studio: Workspace, changes: dict[str, Any], fault: Fault, told: str
) -> None:
    inventory, name = recorded(studio, **changes)
    damage = look_at_clip(inventory, name, settings=settings_of(studio), deep=True).damage
    assert damage is not None
    assert damage.fault is fault
    assert told in damage.text


def test_same_seed_draws_the_same_rows_and_none_that_is_damaged(studio: Workspace) -> None:
    settings = settings_of(studio)
    flip(studio.clips("trial")[0])
    states = verify([take_inventory("trial", settings)], settings)
    drawn = [record["clip"] for record in draw(states, 3, seed=1)]
    assert drawn == [record["clip"] for record in draw(states, 3, seed=1)]
    assert len({tuple(r["clip"] for r in draw(states, 3, seed=n)) for n in range(9)}) > 1
    whole = {path.name for path in studio.clips("trial")[1:]}
    assert {record["clip"] for record in draw(states, 99, seed=1)} == whole


def test_rendering_again_tells_equal_frames_from_damage_and_from_other_conditions(
    studio: Workspace,
) -> None:
    settings = settings_of(studio)
    records = read_log("trial", settings=settings).sort("seed").to_dicts()
    # Each claims the frames of its neighbour: a clip that its record did not make.
    other = {key: records[1][key] for key in ("frames_digest", "clip")}
    cases = [
        records[0],
        {**records[2], **other},
        {**records[3], **other, "torch_version": "1.0"},
        {**records[4], **other, "vae_tiled": True},
        {**records[5], "variant": "gone"},
    ]
    found = render_again(cases, settings, render=render, devices="cpu")
    assert [one.outcome for one in found] == [
        Outcome.SAME,
        Outcome.DIFFERS,
        Outcome.OTHER,
        Outcome.OTHER,
        Outcome.NOT_RENDERED,
    ]
    assert found[0].psnr_db is None
    assert "although nothing on record has changed" in found[1].text
    assert "torch 1.0 -> " in found[2].text
    assert "tiles True -> False" in found[3].text
    assert "no such variant" in found[4].text
    for one in found[1:4]:
        assert one.psnr_db is not None
        assert 5 < one.psnr_db < 60
    # Under strict numerics, tiles change nothing: another picture is damage then.
    strict = {**cases[3], "numerics": "strict"}
    (one,) = render_again([strict], settings, render=render, devices="cpu")
    assert one.outcome is Outcome.DIFFERS
