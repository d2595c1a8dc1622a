"""Runs gated rows with scripted scores in a process of its own: the program that a test kills.

As a script: `python -m tests.faults.gated_night WORKSPACE`. Whoever kills it may do so at any
moment: each rendering takes a while, and its draft is on disk as a real one is.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from lynx_engine.gate import IdentityGate, reseed
from lynx_engine.history import Past, sort_by_past
from lynx_engine.jobs import RenderJob, RenderPlan
from lynx_engine.provenance.past import read_history
from lynx_engine.results import Likeness
from lynx_engine.settings import Settings
from lynx_engine.survey import intact_clips
from tests.faults.disk import CAMPAIGN, HonestPool, run_trial
from tests.support.jobs import make_job

RENDERING_S = 0.15

MEANS: dict[int, tuple[float | None, ...]] = {
    1: (0.1, 0.3, 0.2),
    2: (0.2, 0.6, 0.9),
    3: (None, 0.1, 0.5),
    4: (0.7, 0.1, 0.1),
    5: (0.3, 0.2, 0.1),
}
"""Seed of a row -> the scores of its tries."""

ENDS = {1: (3, 2), 2: (2, 2), 3: (3, 3), 4: (1, 1), 5: (3, 1)}
"""Seed of a row -> tries it makes at 0.55, and which one is published; told by hand."""


def job_of(seed: int) -> RenderJob:
    return make_job(seed=seed, gate=str(IdentityGate(0.55, 3, "best", "a script")))


def likenesses() -> dict[int, Likeness | None]:
    """Return rendered seed -> what scoring its clip finds."""
    return {
        reseed(seed, n): Likeness(
            evaluator="a script",
            calibration="uncalibrated",
            frames=4,
            face_share=1.0,
            mean=mean,
            least=mean,
            slope_per_s=None,
        )
        for seed, means in MEANS.items()
        for n, mean in enumerate(means, start=1)
    }


def plan_now(settings: Settings, seeds: tuple[int, ...]) -> RenderPlan:
    """Plan as the command line does: before the lock is taken and a dead run's litter sorted."""
    folder = settings.campaign_dir(CAMPAIGN)
    known = read_history(folder / "provenance")
    clips = intact_clips(folder / "clips", known)
    past = Past(known.latest, known.by_job, known.attempts, clips)
    to_run, done, held, _ = sort_by_past([job_of(seed) for seed in seeds], past, None)
    return RenderPlan(CAMPAIGN, tuple(to_run), tuple(done), tuple(held))


def main() -> int:
    settings = Settings(workspace=Path(sys.argv[1]))
    pool = HonestPool(likeness=likenesses(), on_render=lambda *_: time.sleep(RENDERING_S))
    summary = run_trial(settings, pool, plan_now(settings, tuple(MEANS)))
    return int(summary.exit_code)


if __name__ == "__main__":
    sys.exit(main())
