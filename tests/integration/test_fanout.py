"""Rows of several models on several real device processes."""

from __future__ import annotations

from tests.benchmarks.bench_fanout import mixed_jobs, run


def test_each_device_loads_each_model_once_at_most_and_every_row_renders() -> None:
    jobs = mixed_jobs(scale=0.1)
    measured = run(jobs, "cpu:2")
    assert measured.rows == len(jobs) == 48
    assert set(measured.loads) == {"cpu:0", "cpu:1"}
    assert max(measured.loads.values()) <= 3
    assert measured.window_s < measured.busy_s, "the devices worked side by side"
