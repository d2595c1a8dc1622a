"""P7 and P9: what the orchestrator costs a device, and how rows spread over devices.

    python -m tests.benchmarks.bench_fanout [--quick]

Prints a table, and one JSON line last. Needs an idle machine.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import psutil

from flows.run import Silence
from lynx_engine.campaign import open_campaign
from lynx_engine.digest import digest_file
from lynx_engine.jobs import PlannedJob, Reason, RenderJob, RenderPlan
from lynx_engine.lock import lock_campaign
from lynx_engine.pool import find_devices, open_pool
from lynx_engine.preflight import Preflight, face_keys
from lynx_engine.provenance.store import read_parts
from lynx_engine.settings import Settings
from tests.benchmarks import timeline
from tests.benchmarks.figures import is_quick, tell
from tests.support.jobs import make_sleeper_job
from tests.support.renders import ASTRONAUT, ASTRONAUT_LANDMARKS
from tests.support.renders import make_job as make_variant_job

ROUNDS = 2


@dataclass(frozen=True)
class Measured:
    """One campaign.

    Attributes:
        window_s: From the first row's start on a device to the last row's end.
        busy_s: Seconds that device processes had a row, summed.
        wait_s: Seconds that a device waited for a row though it could have begun it, median.
        rows: How many.
        cpu_s: Processor seconds of the orchestrator.
        loads: Models loaded, by device.
    """

    window_s: float
    busy_s: float
    wait_s: float
    rows: int
    cpu_s: float
    loads: dict[str, int]


def run(jobs: Sequence[RenderJob], devices: str, *, warm: Sequence[RenderJob] = ()) -> Measured:
    """Render `jobs`; `warm` goes first on every device and is not measured."""
    log, cpu_s = _run(jobs, devices, warm)
    loads = log.filter(pl.col("load_s") > 0).group_by("device").len()
    return Measured(
        window_s=(log["finished_at"].max() - log["started_at"].min()).total_seconds(),  # type: ignore[operator,union-attr]
        busy_s=timeline.busy_s(log),
        wait_s=float(timeline.waits_s(log).median() or 0.0),  # type: ignore[arg-type]
        rows=len(log),
        cpu_s=cpu_s,
        loads=dict(loads.iter_rows()),
    )


def run_log(
    jobs: Sequence[RenderJob], devices: str, *, warm: Sequence[RenderJob] = ()
) -> pl.DataFrame:
    """Render as `run` does, and return the campaign's log."""
    return _run(jobs, devices, warm)[0]


def _run(
    jobs: Sequence[RenderJob], devices: str, warm: Sequence[RenderJob]
) -> tuple[pl.DataFrame, float]:
    """Return the log, and the processor seconds of the orchestrator."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(workspace=Path(folder), cache=CACHE)
        with open_pool(settings, find_devices(devices)) as pool:
            if warm:
                _render(warm, "warm", pool, settings)
            before = psutil.Process().cpu_times()
            _render(jobs, "trial", pool, settings)
            after = psutil.Process().cpu_times()
        log = read_parts(settings.campaign_dir("trial") / "provenance")
    assert set(log["status"]) == {"rendered"}
    return log, after.user + after.system - before.user - before.system


def _render(jobs: Sequence[RenderJob], campaign: str, pool: object, settings: Settings) -> None:
    rows = tuple(PlannedJob(replace(job, campaign=campaign), Reason.NEW, "new", 1) for job in jobs)
    faces = {
        face_keys(job)[0]: np.asarray(ASTRONAUT_LANDMARKS, np.float32) for job in jobs if job.photos
    }
    plan = RenderPlan(campaign, rows, done=(), held=())
    with (
        lock_campaign(settings.campaign_dir(campaign)) as lock,
        open_campaign(
            lock,
            plan,
            pool,  # type: ignore[arg-type]
            settings=settings,
            faces=Preflight(faces, {}),
            observer=Silence(),
        ) as opened,
    ):
        threads = 2 * opened.devices + 16  # as the flow has

        def loop(_: int) -> None:
            for turn in opened.turns(threads=threads):
                opened.render_row(turn)

        with ThreadPoolExecutor(threads) as executor:
            list(executor.map(loop, range(threads)))


def tiny(count: int, *, first_seed: int) -> list[RenderJob]:
    digest = digest_file(ASTRONAUT)
    # At 4 steps one worker alone fills much of a second core, encoding under the next row.
    job = replace(make_variant_job("tiny"), subject_digest=digest, steps=24)
    return [replace(job, seed=first_seed + n) for n in range(count)]


def sleepers(lengths: Sequence[float], *, load: float = 0.0, **changes: object) -> list[RenderJob]:
    # As many steps as it is long: that is how the dispatcher knows a row's length.
    return [
        make_sleeper_job(
            f"sleep={length:.3f} load={load}", seed=n, steps=max(1, round(10 * length)), **changes
        )
        for n, length in enumerate(lengths)
    ]


def tiny_speedup(*, rows: int, rounds: int) -> float:
    """Rows a second of two workers over those of one, interleaved."""
    windows: dict[str, list[float]] = {"cpu": [], "cpu:2": []}
    for devices in ("cpu", "cpu:2", "cpu:2", "cpu")[: 2 * rounds]:
        measured = run(tiny(rows, first_seed=100), devices, warm=tiny(4, first_seed=1))
        windows[devices].append(measured.window_s)
    return statistics.median(windows["cpu"]) / statistics.median(windows["cpu:2"])


def eight_sleepers(*, length: float, devices: int = 8) -> tuple[float, float]:
    """Return the share of ideal: of the rows' own time, and of sleeping alone."""
    each = 3
    measured = run(
        sleepers([length] * devices * each),
        f"cpu:{devices}",
        warm=sleepers([0.01 * n for n in range(2 * devices)]),
    )
    return measured.busy_s / devices / measured.window_s, length * each / measured.window_s


def mixed_jobs(*, scale: float) -> list[RenderJob]:
    """Return 48 rows of three models; `scale` shortens rows and loads."""
    dice = random.Random(9)
    jobs = [
        job
        for precision, count in (("float32", 24), ("bfloat16", 16), ("float16", 8))
        for job in sleepers(
            [scale * dice.uniform(0.5, 3.0) for _ in range(count)],
            load=scale * 0.5,
            precision=precision,
        )
    ]
    return [replace(job, seed=n) for n, job in enumerate(jobs)]


def mixed_models(*, scale: float) -> tuple[float, dict[str, int]]:
    """Return makespan over its bound for three models on four devices, and loads by device."""
    jobs = mixed_jobs(scale=scale)
    # The processes are up before the clock runs; the models still have to be loaded.
    measured = run(jobs, "cpu:4", warm=sleepers([0.1] * 12, precision="none"))
    bound = max(measured.busy_s / 4, 3.0 * scale)
    return measured.window_s / bound, measured.loads


def orchestration(*, rows: int) -> tuple[float, float]:
    """Return ms that a device waits between two rows, and ms of processor, a row."""
    # A row of no length would wait for the processor that encodes the two before it.
    measured = run(sleepers([0.1] * rows), "cpu", warm=sleepers([0.001]))
    return 1000 * measured.wait_s, 1000 * measured.cpu_s / measured.rows


def main() -> int:
    """Measure and tell."""
    quick = is_quick()
    idle_ms, cpu_ms = orchestration(rows=20 if quick else 200)
    speedup = tiny_speedup(rows=4 if quick else 12, rounds=1 if quick else ROUNDS)
    share, of_sleep = eight_sleepers(length=0.2, devices=2) if quick else eight_sleepers(length=8.0)
    over_bound, loads = mixed_models(scale=0.05 if quick else 1.0)
    return tell(
        {
            "P7_idle_ms": idle_ms,
            "P7_cpu_ms": cpu_ms,
            "P9_tiny_2_workers": speedup,
            "P9_8_sleepers": share,
            "P9_8_sleepers_of_sleep": of_sleep,
            "P9_mixed_over_bound": over_bound,
            "P2_most_loads": max(loads.values()),
        }
    )


CACHE = Path(os.environ.get("LYNX_CACHE", str(Path.home() / ".cache" / "lynx_engine")))

if __name__ == "__main__":
    sys.exit(main())
