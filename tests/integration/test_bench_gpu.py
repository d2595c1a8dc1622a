"""The GPU benchmark runs from end to end on a machine that has only torch and diffusers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.bench_gpu import BIG, FRAMES
from tests.benchmarks.guided_step import Shape

ROOT = Path(__file__).resolve().parents[2]

# In a fresh interpreter, packages besides these and what they themselves require look uninstalled.
BARE = """
import re, runpy, sys
from importlib import metadata
from importlib.machinery import PathFinder

def required(names):
    found, todo = set(), [re.sub(r"[-_.]+", "-", name).lower() for name in names]
    while todo:
        name = todo.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            needs = [r for r in distribution.requires or () if not re.search(r"extra\\s*==", r)]
            todo += [re.sub(r"[-_.]+", "-", re.split(r"[^\\w.-]", r)[0]).lower() for r in needs]
    return found

given = "torch diffusers transformers numpy safetensors accelerate peft huggingface_hub tokenizers"
there = required(given.split())
hidden = {
    module
    for module, names in metadata.packages_distributions().items()
    if not {re.sub(r"[-_.]+", "-", name).lower() for name in names} & there
} - {"lynx_engine", "tests", "flows"}
# Required by one of them, but only for commands of its own.
hidden |= {"pydantic", "typer"}

class BarePaths(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hides = name.partition(".")[0] in hidden
        return None if hides else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = BarePaths
for module in ("pydantic", "polars", "typer", "prefect", "dask", "cv2", "ftfy"):
    assert module in hidden, module
    try:
        __import__(module)
    except ImportError:
        continue
    raise AssertionError(module)
sys.argv = ["bench_gpu", "--quick", "--variants", "lynx_full"]
import torch
torch.set_num_threads(1)
runpy.run_module("tests.benchmarks.bench_gpu", run_name="__main__")
"""


@pytest.mark.timeout(600)
def test_quick_form_runs_where_only_torch_and_diffusers_are(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE],
        cwd=ROOT,
        env={"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    wanted = {"P3_full", "P4_full", "P3_full_compiled", "P5_full", "P5_full_of_790"}
    wanted |= {f"P10_{tier}_time" for tier in ("resident", "16gb", "8gb")}
    assert wanted <= figures.keys()
    assert figures["P10_8gb_streamed"] == 2
    assert all(figures[name] > 0 for name in wanted)


@pytest.mark.parametrize(("variant", "teraflops"), [("lynx_full", 1687), ("lynx_lite", 3095)])
def test_operations_of_a_pass_are_those_of_the_papers_sizes(variant: str, teraflops: int) -> None:
    shape: Shape = BIG
    cells = (FRAMES[variant], *shape.cells[1:])
    counted = Shape(40, 40, 128, 13824, 4096, 2048, cells).flops_of_pass / 1e12
    assert counted == pytest.approx(teraflops, rel=0.01)
