"""Runs a plan: as a Prefect flow on device processes, or in a plain loop in this process.

This is where the public `lynx_engine.render` lives. It starts what a run needs, hands the plan to
the flow, and turns signals into a campaign that can be resumed.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from flows.logs import log_file
from flows.reports import report_after_run
from flows.server import prefect_server
from lynx_engine.campaign import Campaign, open_campaign
from lynx_engine.jobs import PlannedJob, RenderJob, RenderPlan
from lynx_engine.live import live_progress
from lynx_engine.lock import DRAFTS_FOLDER, CampaignLock, lock_campaign
from lynx_engine.manifest.read import read_manifest
from lynx_engine.outcomes import CampaignSummary, Observer
from lynx_engine.planning import plan_renders
from lynx_engine.pool import InProcessPool, Pool, find_devices, open_cluster_pool, open_pool
from lynx_engine.preflight import Preflight, find_subject_faces, photo_vault
from lynx_engine.results import RenderResult
from lynx_engine.safety.classifiers import installed_classifiers
from lynx_engine.settings import Settings, load_settings
from lynx_engine.signing import open_credentials
from lynx_engine.survey import gather_facts
from lynx_engine.variants import get_variant

logger = logging.getLogger(__name__)

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

DRAIN_S = 20.0
"""Seconds that rows in flight get after the first of these signals."""


class Silence:
    """An observer that says nothing."""

    def serving(self, address: str) -> None:
        """Ignore where Prefect shows the run."""

    def stage(self, job: RenderJob, name: str, done: int, total: int) -> None:
        """Ignore progress."""

    def finished(self, planned: PlannedJob, result: RenderResult) -> None:
        """Ignore the end of a row."""

    def stopping(self, drain_s: float) -> None:
        """Ignore that the run is being stopped."""


@dataclass(frozen=True, slots=True)
class Run:
    """A plan with all that running it takes.

    Attributes:
        plan: What to render.
        faces: Where each subject's face is.
        settings: Folders and behaviour.
        devices: One worker each, of this machine.
        cluster: Address of the Dask cluster whose workers are used instead, or "".
        observer: Who watches.
    """

    plan: RenderPlan
    faces: Preflight
    settings: Settings
    devices: tuple[str, ...]
    cluster: str
    observer: Observer


def render(
    plan: RenderPlan,
    *,
    settings: Settings | None = None,
    devices: str = "auto",
    cluster: str = "",
    skip_bad_rows: bool = False,
    in_process: bool = False,
    observer: Observer | None = None,
) -> CampaignSummary:
    """Render what a plan says, write the report, and return how it ended.

    Args:
        plan: From `plan_renders`.
        settings: Folders and behaviour; those of the current workspace by default.
        devices: `auto`, or a list such as `cuda:0,cuda:1` or `cpu:2`.
        cluster: Address of a running Dask cluster, as `tcp://host:8786`: its workers render instead
            of this machine's devices. The workspace lies on a path that all of them share.
        skip_bad_rows: Fail rows whose photo has no usable face instead of refusing the plan.
        in_process: Render in this process, without Prefect and Dask, for debugging.
        observer: Told of progress.

    Raises:
        RefusedError: If a photo that is needed has no usable face, a worker of the cluster cannot
            render, or clips are to be signed and cannot be; every one is named.
        LockedError: If another process renders this campaign.
        PausedError: If the local Prefect server does not start, or nothing can be written.
    """
    settings = settings or load_settings()
    open_credentials(settings)  # refused here, not once server and devices have started
    run = Run(
        plan=plan,
        faces=find_subject_faces(plan, vault=photo_vault(settings), skip_bad_rows=skip_bad_rows),
        settings=settings,
        devices=() if cluster else find_devices(devices),
        cluster=cluster,
        observer=observer or Silence(),
    )
    folder = run.settings.campaign_dir(plan.campaign)
    with lock_campaign(folder) as lock, log_file(folder):
        summary = _render_here(run, lock) if in_process else _render_as_flow(run, lock)
        return replace(summary, report=report_after_run(plan.campaign, run.settings))


def _render_as_flow(run: Run, lock: CampaignLock) -> CampaignSummary:
    with prefect_server(run.settings, run.plan.campaign) as server, open_run(run, lock) as campaign:
        # Not before: prefect reads its settings from the environment when it is imported.
        from flows.render_campaign import run_flow

        if server is not None:
            server.wait_until_ready()
            run.observer.serving(server.url.removesuffix("/api"))
        run_flow(campaign, api_url=None if server is None else server.url)
        return campaign.summary()


def _render_here(run: Run, lock: CampaignLock) -> CampaignSummary:
    """Render row after row on the first device, in this process."""
    pool = InProcessPool(run.settings, run.devices[0])
    with _open(run, lock, pool) as campaign, stops_on_signals(campaign):
        for turn in campaign.turns():
            campaign.render_row(turn)
        return campaign.summary()


def prepare_run(manifest: Path, *, devices: str, cluster: str, skip_bad_rows: bool) -> Run:
    """Read and plan a manifest and find its faces, as a schedule's flow needs it.

    Raises:
        RefusedError: With every problem found.
    """
    settings = load_settings(manifest)
    open_credentials(settings)
    read = read_manifest(manifest, lenient=True)
    plan = plan_renders(read, gather_facts(read, settings), skip_bad_rows=skip_bad_rows)
    for problem in (*plan.warnings, *plan.problems):
        logger.warning("%s", problem)
    return Run(
        plan=plan,
        faces=find_subject_faces(plan, vault=photo_vault(settings), skip_bad_rows=skip_bad_rows),
        settings=settings,
        devices=() if cluster else find_devices(devices),
        cluster=cluster,
        observer=Silence(),
    )


@contextmanager
def open_run(run: Run, lock: CampaignLock) -> Generator[Campaign]:
    """Start the devices and give the campaign; every process is ended on the way out."""
    if run.cluster:
        jobs = (planned.job for planned in run.plan.to_run)
        is_checked = any(get_variant(job.variant).is_checked(job.safety) for job in jobs)
        pool = open_cluster_pool(
            run.settings,
            run.cluster,
            lock.folder / DRAFTS_FOLDER,
            classifiers=installed_classifiers(run.settings) if is_checked else (),
        )
    else:
        pool = open_pool(run.settings, run.devices)
    with pool as opened, _open(run, lock, opened) as campaign:
        yield campaign


@contextmanager
def _open(run: Run, lock: CampaignLock, pool: Pool) -> Generator[Campaign]:
    with (
        live_progress(
            lock.folder, run.plan.to_run, devices=pool.devices, inner=run.observer
        ) as observer,
        open_campaign(
            lock, run.plan, pool, settings=run.settings, faces=run.faces, observer=observer
        ) as campaign,
    ):
        yield campaign


@contextmanager
def stops_on_signals(campaign: Campaign) -> Generator[None]:
    """Turn the first Ctrl-C or SIGTERM into a drain of `DRAIN_S`, the second into an end at once.

    Either way the rows in flight are recorded as interrupted and the campaign can be resumed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only; whoever runs there decides
        return
    timer = threading.Timer(DRAIN_S, campaign.abandon)
    timer.daemon = True

    def hear(number: int, _frame: FrameType | None) -> None:
        if campaign.stopped_by:
            campaign.abandon()
            return
        campaign.stop(number, drain_s=DRAIN_S)
        timer.start()

    before = {number: signal.signal(number, hear) for number in STOPPING}
    try:
        yield
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
