"""The public API through real Prefect and real Dask, twice in one process, with rows that fail."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import psutil
import pytest

import lynx_engine
from lynx_engine.settings import load_settings
from tests.support.jobs import astronaut
from tests.support.weights import write_public_layout

MANIFEST = """
campaign: mixed
defaults: {size: 32x32, frames: 5, steps: 2, safety: acknowledged-off}
subjects:
  astronaut: {image: one.png, consent: {basis: public-domain}}
prompts: {wave: A person waves.}
matrix:
  - {subject: astronaut, prompt: wave, variant: [lynx_lite, lynx_full, tiny]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lynx.toml").touch()
    (tmp_path / "mixed.yaml").write_text(MANIFEST)
    shutil.copyfile(astronaut(), tmp_path / "one.png")
    write_public_layout(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LYNX_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_variant_whose_weights_do_not_load_fails_its_rows_and_the_others_go_on(
    folder: Path,
) -> None:
    broken = folder / "models" / "lynx_lite" / "ip_layers.safetensors"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])

    manifest = lynx_engine.read_manifest("mixed.yaml")
    plan = lynx_engine.plan_renders(manifest, lynx_engine.gather_facts(manifest))
    summary = lynx_engine.render(plan)
    assert (summary.rendered, summary.failed, summary.exit_code) == (2, 1, 1)
    (failure,) = summary.failures.values()
    assert failure.startswith("weights: ")
    assert str(broken) in failure

    database = load_settings().state_dir / "prefect" / "mixed" / "prefect.db"
    with sqlite3.connect(database) as connection:
        tasks = dict(connection.execute("select name, state_type from task_run").fetchall())
        flows = connection.execute("select state_type, parameters from flow_run").fetchall()
    states = {
        name.split("-s0-")[1].rpartition("-")[0]: state
        for name, state in tasks.items()
        if name.startswith("render ")
    }
    assert states == {"lynx_lite": "FAILED", "lynx_full": "COMPLETED", "tiny": "COMPLETED"}
    assert [state for state, _ in flows] == ["FAILED"]

    # Mended, the same call in the same process renders the one row that is left.
    broken.write_bytes(whole)
    facts = lynx_engine.gather_facts(manifest)
    plan = lynx_engine.plan_renders(manifest, facts)
    assert [p.job.variant for p in plan.to_run] == ["lynx_lite"]
    summary = lynx_engine.render(plan)
    assert (summary.rendered, summary.done_before, summary.exit_code) == (1, 2, 0)

    log = lynx_engine.read_log("mixed")
    assert sorted(zip(log["variant"], log["status"], strict=True)) == [
        ("lynx_full", "rendered"),
        ("lynx_lite", "failed"),
        ("lynx_lite", "rendered"),
        ("tiny", "rendered"),
    ]
    assert set(log.filter(log["variant"] != "tiny")["precision"]) == {"bfloat16"}
    servers = [
        child
        for child in psutil.Process().children(recursive=True)
        if "flows.server_process" in child.cmdline()
    ]
    assert servers == []
