"""What a fresh interpreter loads, and how fast the command answers."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pace import slowness
from tests.support.workspaces import COMMAND

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "diffusers", "transformers", "prefect", "dask", "distributed")


def loaded_after(program: str, folder: Path) -> set[str]:
    code = f"import sys\n{program}\nprint('LOADED', *sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.rpartition("LOADED")[2].split())


PLAN = f"""
from lynx_engine import gather_facts, plan_renders, read_manifest
manifest = read_manifest({str(ROOT / "manifests/quickstart.yaml")!r})
assert len(plan_renders(manifest, gather_facts(manifest)).to_run) == 8
"""
LOG = "from lynx_engine import read_log\nassert read_log('never').is_empty()"


@pytest.mark.parametrize(
    "program",
    ["import lynx_engine.cli.app", PLAN, LOG, "import flows.run"],
    ids=["command line", "plan", "log", "before a run"],
)
def test_nothing_heavy_is_loaded(program: str, tmp_path: Path) -> None:
    assert loaded_after(program, tmp_path).isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["lynx_engine", "lynx_engine.variants", "lynx_engine.errors"])
def test_package_itself_needs_the_standard_library_only(module: str, tmp_path: Path) -> None:
    loaded = loaded_after(f"import {module}", tmp_path)
    assert loaded.isdisjoint({*HEAVY, "numpy", "polars", "pydantic", "yaml", "rich", "typer"})


def fastest_s(*arguments: str) -> float:
    """Processor time of the fastest of three: what the command needs on a machine that is idle."""
    times: list[float] = []
    for _ in range(3):
        slow = slowness()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([COMMAND, *arguments], capture_output=True, check=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        times.append(took_s / max(slow, slowness()))
    return min(times)


def test_help_is_instant() -> None:
    assert fastest_s("--help") <= 0.5


def test_check_of_a_hundred_rows_is_quick(tmp_path: Path) -> None:
    image = ROOT / "manifests/subjects/astronaut.png"
    rows = [f"host,{image},public-domain,A person waves {n} times.,{n},tiny" for n in range(100)]
    table = tmp_path / "hundred.csv"
    table.write_text("\n".join(["subject,image,consent_basis,prompt,seed,variant", *rows]))
    assert fastest_s("check", str(table)) <= 1.5
