"""Runs a campaign as `lynx-engine render` does, without Prefect: the program that fault tests kill.

As a script: `python -m tests.faults.night MANIFEST [--devices cpu:2] [--retry] [--mutant NAME]`.
With a mutant, one safeguard is taken away, to show that the tests notice.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from flows.run import Run, Silence, open_run, stops_on_signals
from lynx_engine.campaign import Campaign
from lynx_engine.history import RetryFilter
from lynx_engine.lock import lock_campaign
from lynx_engine.manifest.read import read_manifest
from lynx_engine.planning import plan_renders
from lynx_engine.pool import find_devices
from lynx_engine.preflight import find_subject_faces
from lynx_engine.settings import load_settings
from lynx_engine.survey import gather_facts


def take_away_the_rename() -> None:
    """Let the encoder write under the clip's final name."""
    from lynx_engine.campaign import Campaign as Mutated
    from lynx_engine.orders import RenderTask

    def render(self: Campaign, turn: object) -> object:
        job = turn.planned.job  # type: ignore[attr-defined]
        path = self._lock.folder.resolve() / "clips" / job.clip_name
        task = RenderTask(job, None, path)
        return self._pool.render(turn.device, task, lambda *_: None)  # type: ignore[attr-defined]

    Mutated._render = render  # type: ignore[method-assign,assignment]


def take_away_the_lock() -> None:
    """Let two runs of one campaign render beside each other."""
    import fcntl

    fcntl.flock = lambda *_: None


def take_away_the_reaper() -> None:
    """Leave device processes to themselves when the orchestrator is killed."""
    from lynx_engine.pool import dask_pool

    dask_pool.reaper = lambda _mark: nullcontext()  # type: ignore[assignment]


def take_away_the_order() -> None:
    """Publish a clip long before anything of its record is on disk."""
    from lynx_engine import publisher

    prepare = publisher.prepare_part

    def late(folder: Path, record: object) -> object:
        return _Late(lambda: prepare(folder, record))  # type: ignore[arg-type]

    publisher.prepare_part = late  # type: ignore[assignment]


class _Late:
    """A part that is prepared only when it is committed."""

    def __init__(self, prepare: Callable[[], object]) -> None:
        self._prepare = prepare

    def commit(self) -> object:
        return self._prepare().commit()  # type: ignore[attr-defined]

    def discard(self) -> None:
        pass


MUTANTS = {
    "rename": take_away_the_rename,
    "lock": take_away_the_lock,
    "reaper": take_away_the_reaper,
    "order": take_away_the_order,
}


def prepare(manifest: Path, devices: str, *, retry: bool) -> Run:
    settings = load_settings(manifest)
    read = read_manifest(manifest)
    facts = gather_facts(read, settings)
    plan = plan_renders(read, facts)
    if retry:
        again = plan_renders(read, facts, retry=RetryFilter())
        known = {planned.job.job_id for planned in plan.to_run}
        more = [p for p in again.to_run if p.job.job_id not in known]
        plan = replace(plan, to_run=(*plan.to_run, *more))
    return Run(
        plan=plan,
        faces=find_subject_faces(plan),
        settings=settings,
        devices=find_devices(devices),
        cluster="",
        observer=Silence(),
    )


def render_all(campaign: Campaign) -> None:
    threads = 2 * campaign.devices + 16  # as the flow has

    def loop(_: int) -> None:
        for turn in campaign.turns(threads=threads):
            campaign.render_row(turn)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(loop, range(threads)))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--devices", default="cpu:2")
    parser.add_argument("--retry", action="store_true")
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    given = parser.parse_args()
    # Nobody reads the error pipe while the night lasts; it must not fill.
    logging.basicConfig(filename=given.manifest.parent / "night.log", level=logging.INFO)
    if given.mutant:
        MUTANTS[given.mutant]()
    run = prepare(given.manifest, given.devices, retry=given.retry)
    folder = run.settings.campaign_dir(run.plan.campaign)
    with (
        lock_campaign(folder) as lock,
        open_run(run, lock) as campaign,
        stops_on_signals(campaign),
    ):
        render_all(campaign)
        summary = campaign.summary()
    told = {
        "rendered": summary.rendered,
        "failed": summary.failed,
        "interrupted": summary.interrupted,
        "adopted": len(summary.adopted),
        "blocked": len(summary.blocked),
        "exit_code": int(summary.exit_code),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    return int(summary.exit_code)


if __name__ == "__main__":
    os.environ.setdefault("LYNX_SERVER_START_S", "90")
    sys.exit(main())
