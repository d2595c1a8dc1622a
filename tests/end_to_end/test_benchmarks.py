"""Each benchmark runs and ends in a line for machines; no time is held to anything here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import figures
from tests.benchmarks.__main__ import find_benchmarks
from tests.benchmarks.bench_campaign import count_work

FIGURES = {
    "bench_cli": {"P11_help_s", "P11_check_s"},
    "bench_scale": {"P8_csv_s", "P8_plan_json_mb", "P8_resume_s", "P8_status_mb", "scale_wait_ms"},
    "bench_step": {"P3", "P4"},
    "bench_memory": {"P10_8"},
    "bench_speed": {"speed_cache", "speed_distilled"},
}
LIMIT_S = 300


def run(*words: str) -> tuple[int, str, dict[str, float]]:
    """Run benchmarks quickly; return exit status, what they told, and their last line."""
    done = subprocess.run(
        [sys.executable, "-m", *words, "--quick"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, json.loads(done.stdout.splitlines()[-1])


# Two have tests of their own, on the same code: the work of a campaign below, and test_fanout.
OWN_TESTS = {"bench_campaign", "bench_fanout"}


@pytest.mark.parametrize("name", sorted(set(find_benchmarks()) - OWN_TESTS))
def test_benchmark_runs_and_tells_its_figures_last(name: str) -> None:
    status, _, told = run(f"tests.benchmarks.{name}")
    assert status in {0, 1}
    assert told.keys() >= FIGURES.get(name, set())
    assert all(value >= 0 for value in told.values() if isinstance(value, int | float))


def test_runner_sums_up_with_targets_and_verdicts_and_passes_when_nothing_broke() -> None:
    status, out, told = run("tests.benchmarks", "bench_cli")
    assert status == 0
    summary = out.split("== all figures\n")[1].splitlines()
    assert [line.split()[0] for line in summary[:-1]] == list(told)
    assert all(line.split()[-1] in {"reached", "MISSED"} for line in summary[:-1])


def test_runner_fails_when_a_benchmark_breaks() -> None:
    status, out, told = run("tests.benchmarks", "bench_of_nothing")
    assert (status, told) == (1, {})
    assert "BROKEN bench_of_nothing" in out


def test_missed_figure_is_one_with_a_target_that_it_does_not_reach() -> None:
    assert figures.is_missed("P1", 3.99)
    assert not figures.is_missed("P1", 4.0)
    assert figures.is_missed("P6", 0.011)
    assert not figures.is_missed("P6_without_overlap", 0.3)
    assert figures.table({"P1": 3.0}).split() == ["P1", "3", ">=", "4", "MISSED"]


def test_campaign_does_no_work_twice(tmp_path: Path) -> None:
    work = count_work(tmp_path, seeds=2)
    assert work.done == work.needed
    assert (work.loads, work.rows) == (1, 8)
