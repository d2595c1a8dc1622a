"""Exact, cached, LoRA and distilled rows of one prompt and seed, as a user runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.loras import LAYERS, factors, write_lora
from tests.support.workspaces import Workspace

MANIFEST = """\
campaign: quick
defaults: {variant: tiny, steps: 10}
subjects: {host: {image: one.png, synthetic: true}}
prompts: {wave: A person waves.}
rows:
  - {subject: host, prompt: wave, seed: 1}
  - {subject: host, prompt: wave, seed: 1, speed: cache}
  - {subject: host, prompt: wave, seed: 1, loras: [{weights: loras/film.safetensors, scale: 0.8}]}
  - {subject: host, prompt: wave, seed: 1, steps: 4, speed: distilled,
     loras: [{weights: loras/few.safetensors}, {weights: loras/film.safetensors}]}
"""


@pytest.fixture
def quick(workspace: Workspace) -> Workspace:
    workspace.write("quick.yaml", MANIFEST)
    for number, name in enumerate(("film", "few")):
        write_lora(folder(workspace) / f"{name}.safetensors", factors(LAYERS, up=0.3, seed=number))
    return workspace


def folder(workspace: Workspace) -> Path:
    return workspace.folder / "loras"


def test_rows_that_differ_in_their_shortcut_are_clips_of_their_own_and_rerun_alone(
    quick: Workspace,
) -> None:
    planned = quick.json("plan", "quick.yaml")["to_run"]
    assert [row["request"]["speed"] for row in planned] == [
        "exact", "cache:first-block-0.2", "exact", "distilled",
    ]  # fmt: skip
    shown = quick.run("plan", "quick.yaml").stdout
    assert "cache" in shown
    assert "distilled" in shown
    assert "film.safetensors@0.8" in shown

    done = quick.run("render", "quick.yaml", "--in-process")
    assert done.returncode == 0, done.stderr
    assert "quick: 4 rendered" in done.stdout
    records = {record["job_id"]: record for record in quick.json("log", "quick")}
    assert records.keys() == {row["job_id"] for row in planned}
    assert len({record["frames_digest"] for record in records.values()}) == 4
    cached = [records[row["job_id"]]["cached_passes"] for row in planned]
    assert cached[1] > 0
    assert cached[0] == cached[2] == cached[3] == 0
    assert "cache" in quick.run("log", "quick").stdout
    told = quick.run("show", planned[1]["job_id"]).stdout
    assert "cache:first-block-0.2" in told
    assert "cached_passes" in told
    assert len(quick.clips("quick")) == 4

    again = quick.run("render", "quick.yaml", "--in-process")
    assert "nothing to do; 4 clips are done" in again.stdout

    write_lora(folder(quick) / "film.safetensors", factors(LAYERS, up=0.3, seed=9))
    edited = quick.json("plan", "quick.yaml")
    assert [row["why"] for row in edited["to_run"]] == ["changed: loras changed"] * 2
    assert {row["where"] for row in edited["to_run"]} == {"quick.yaml:8", "quick.yaml:9"}
    assert len(edited["done"]) == 2
    done = quick.run("render", "quick.yaml", "--in-process")
    assert done.returncode == 0, done.stderr
    assert "2 rendered, 2 done before" in done.stdout
    exact = {r["frames_digest"] for r in quick.json("log", "quick")}
    assert len(exact) == 6


def test_a_lora_that_does_not_fit_is_refused_before_anything_renders(quick: Workspace) -> None:
    made = {"blocks.0.attn1.to_q": factors(["proj_out"])["proj_out"]}
    write_lora(folder(quick) / "film.safetensors", made)
    for command in ("check", "plan", "render"):
        done = quick.run(command, "quick.yaml")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert (
            "quick.yaml:8: LoRA loras/film.safetensors does not fit this model: "
            "blocks.0.attn1.to_q lora_B [64, 2] instead of [96, 2]. "
            "Use a LoRA made for its size"
        ) in " ".join(done.stderr.split())
    (folder(quick) / "film.safetensors").unlink()
    done = quick.run("check", "quick.yaml")
    assert "LoRA loras/film.safetensors does not exist. Check the path" in done.stderr


def test_a_table_asks_for_loras_in_its_cells(quick: Workspace) -> None:
    quick.write(
        "table.csv",
        "subject,image,synthetic,prompt,seed,variant,speed,loras\n"
        "host,one.png,true,A person waves.,1,tiny,distilled,"
        "loras/few.safetensors;loras/film.safetensors@0.5\n",
    )
    (row,) = quick.json("plan", "table.csv")["to_run"]
    request = row["request"]
    assert (request["speed"], request["steps"], request["guidance_text"]) == ("distilled", 8, 1.0)
    assert [entry.split("@")[1] for entry in request["loras"].split(",")] == ["1.0", "0.5"]
