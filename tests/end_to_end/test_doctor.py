"""`doctor`, `bench` and the forecast of `plan`, as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lynx_engine.variants import get_variant
from tests.support.workspaces import COMMAND

ROOT = Path(__file__).parents[2]

# A stand-in for nvidia-smi with one card of 4 GB, which no 14B variant fits.
SMALL_CARD = """#!/bin/sh
echo "0, GPU-1, Small Card, 4096, 3900, 8.0, 570.86"
"""


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "LYNX_CACHE": str(folder / "cache"), **environment}
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_doctor_says_what_renders_here_and_what_is_missing(tmp_path: Path) -> None:
    done = run("doctor", "--devices", "cpu", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ffmpeg" in done.stdout
    assert "lynx-engine doctor --calibrate" in done.stdout
    tiny = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["tiny"])
    assert "resident" in tiny
    full = next(ln for ln in done.stdout.splitlines() if ln.split()[:1] == ["lynx_full"])
    assert "missing" in full


def test_doctor_refuses_a_wrong_name_in_model_paths(tmp_path: Path) -> None:
    done = run("doctor", folder=tmp_path, LYNX_MODEL_PATHS='{"lynx_ful": "/weights"}')
    assert done.returncode == 2
    assert "unknown entry 'lynx_ful', did you mean 'lynx_full'?" in done.stderr


def test_doctor_is_quick_and_loads_no_torch(tmp_path: Path) -> None:
    times: list[float] = []
    for _ in range(3):
        started = time.monotonic()
        run("doctor", "--json", folder=tmp_path)
        times.append(time.monotonic() - started)
    assert min(times) <= 2.0
    code = (
        "import sys\nfrom lynx_engine.cli.doctor import command\ncommand()\n"
        "print('LOADED', *sorted(sys.modules))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code.replace("\\\n", "\n")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert {"torch", "diffusers", "prefect"}.isdisjoint(told.stdout.rpartition("LOADED")[2].split())


def test_doctor_refuses_where_nothing_renders(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    broken = tmp_path / "bin" / "ffmpeg"
    broken.write_text("#!/bin/sh\nexit 1\n".replace("\\\n", "\n"))
    broken.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = run("doctor", "--json", folder=tmp_path, PATH=path)
    assert done.returncode == 2
    told = json.loads(done.stdout)
    assert told["can_render"] is False
    (ffmpeg,) = [f for f in told["findings"] if f["what"] == "ffmpeg"]
    assert "libx264" in ffmpeg["told"]


def test_calibration_gives_plan_its_time_and_damage_takes_it_away(tmp_path: Path) -> None:
    done = run("doctor", "--calibrate", "--variant", "tiny", "--devices", "cpu", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "measuring tiny" in done.stderr
    file = tmp_path / "cache" / "calibration.json"
    tiny = next(ln for ln in done.stdout.splitlines() if ln.split()[:1] == ["tiny"])
    assert "calibrated" in tiny
    file.write_text(file.read_text().replace("step_s", "step_t"))
    damaged = run("doctor", folder=tmp_path)
    assert damaged.returncode == 0
    assert "changed or damaged" in " ".join(damaged.stdout.split())


def test_unknown_variant_is_not_measured(tmp_path: Path) -> None:
    done = run("doctor", "--calibrate", "--variant", "tinny", folder=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'tiny'?" in done.stderr


@pytest.fixture
def small_card(tmp_path: Path) -> str:
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.write_text(SMALL_CARD)
    tool.chmod(0o755)
    return f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"


def test_plan_warns_of_rows_that_fit_no_device_before_the_night(
    tmp_path: Path, small_card: str
) -> None:
    # The true 14B shape is what a variant has whose configs say nothing else.
    for path in required_of("wan"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("{}")
    table = tmp_path / "night.csv"
    table.write_text("prompt,seed,variant,safety\nA park at night.,1,wan,acknowledged-off\n")
    done = run("plan", str(table), folder=tmp_path, PATH=small_card)
    assert done.returncode == 0, done.stderr
    assert "1 row of wan (81 frames of 832x480) fits no device here" in done.stderr
    assert "--cluster" in done.stderr


def required_of(variant: str) -> list[str]:
    base = f"models/{get_variant(variant).base}"
    configs = ("scheduler/scheduler_config.json", "tokenizer/tokenizer.json", "model_index.json")
    parts = {
        "text_encoder": "model.safetensors",
        "transformer": "diffusion_pytorch_model.safetensors",
        "vae": "diffusion_pytorch_model.safetensors",
    }
    files = [
        f"{base}/{part}/{name}" for part, file in parts.items() for name in (file, "config.json")
    ]
    return [*files, *(f"{base}/{config}" for config in configs)]


def test_plan_tells_tiers_and_says_when_there_is_no_calibration(tmp_path: Path) -> None:
    manifest = ROOT / "manifests" / "quickstart.yaml"
    told = run("plan", str(manifest), folder=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "no calibration: run lynx-engine doctor --calibrate" in told.stdout.splitlines()[-1]
    plain = json.loads(run("plan", str(manifest), "--json", folder=tmp_path).stdout)["forecast"]
    assert plain["eta_s"] is None
    assert {on["tier"] for kind in plain["kinds"] for on in kind["on"]} == {"resident"}


def test_bench_measures_and_renders_tiny_end_to_end(tmp_path: Path) -> None:
    done = run("bench", "--quick", "--json", "--devices", "cpu", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {row["variant"] for row in told["devices"]} >= {"tiny", "tiny_lite"}
    assert all(row["step_s"] > 0 and row["matrix_flops"] > 1e8 for row in told["devices"])
    assert told["tiny_on_cpu"]["clip_s"] > 0
    assert (tmp_path / "cache" / "calibration.json").is_file()
