"""The flow: read, plan, find faces, render every row, show the results.

Import it only where a Prefect API is at hand (`flows.run` sees to that): prefect reads its settings
from the environment when it is first imported.
"""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.events.worker import EventsWorker
from prefect.futures import wait
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import showing
from flows.dead_runs import close_dead_runs
from flows.logs import log_file
from flows.reports import report_after_run, report_if_missing
from flows.run import open_run, prepare_run, stops_on_signals
from flows.schedules.turns import Coalesced, campaign_folder, wait_for_lock
from flows.tasks import render_row, render_shard
from lynx_engine.campaign import Campaign
from lynx_engine.jobs import RenderPlan
from lynx_engine.outcomes import CampaignSummary, idle_summary
from lynx_engine.survey import CLIPS_FOLDER

# On each device one row renders and one waits; the others wait out their next attempt.
THREADS_PER_DEVICE = 2
THREADS_FOR_RETRIES = 16
MOST_TASK_RUNS = 1000
DRAIN_S = 10.0


_handed_over: ContextVar[Campaign | None] = ContextVar("handed_over", default=None)


def run_flow(campaign: Campaign, *, api_url: str | None) -> None:
    """Run the flow on a campaign that is open already.

    Args:
        campaign: What the flow renders.
        api_url: Address of the run's own server; None for the user's.
    """
    # Given here, not by the environment: prefect reads that once, a process may render twice.
    updates: dict[Any, str] = {} if api_url is None else {PREFECT_API_URL: api_url}
    token = _handed_over.set(campaign)
    try:
        with temporary_settings(updates=updates):
            if api_url is not None:
                close_dead_runs()
            render_campaign(campaign.plan.campaign, return_state=True)
            # What Prefect still has to send goes out while its server lives.
            EventsWorker.drain_all(timeout=DRAIN_S)
    finally:
        _handed_over.reset(token)


@flow(name="render-campaign", flow_run_name="{manifest}", persist_result=False)
def render_campaign(
    manifest: str, devices: str = "auto", cluster: str = "", skip_bad_rows: bool = False
) -> State[None]:
    """Render one manifest.

    Args:
        manifest: Its path; the campaign's name where the command line hands over the campaign.
        devices: As `lynx-engine render --devices`.
        cluster: As `lynx-engine render --cluster`.
        skip_bad_rows: As `lynx-engine render --skip-bad-rows`.
    """
    campaign = _handed_over.get()
    if campaign is not None:
        return render_all(campaign)
    # Planned under the lock: a plan made while another run rendered would render its rows again.
    with wait_for_lock(campaign_folder(Path(manifest))) as turn:
        if isinstance(turn, Coalesced):
            return turn.state
        run = prepare_run(
            Path(manifest), devices=devices, cluster=cluster, skip_bad_rows=skip_bad_rows
        )
        if not run.plan.to_run:
            report_if_missing(run.plan.campaign, run.settings)
            return _idle(run.plan, turn.folder / CLIPS_FOLDER)
        with log_file(turn.folder):
            with open_run(run, turn) as campaign:
                state = render_all(campaign)
            report_after_run(run.plan.campaign, run.settings)
            return state


def render_all(campaign: Campaign) -> State[None]:
    """Render every row; the state says how it ended."""
    with stops_on_signals(campaign), showing(campaign):
        if len(campaign.plan.to_run) <= MOST_TASK_RUNS:
            _render_rows(campaign)
        else:
            _render_shards(campaign)
    summary = campaign.summary()
    told = f"{summary.rendered} rendered, {summary.failed} failed, {summary.interrupted} left"
    return _state(summary, told)


def _idle(plan: RenderPlan, clips: Path) -> State[None]:
    """Say of a plan of which nothing is to run what else the shell would hear of it."""
    summary = idle_summary(plan, clips)
    count = len(plan.done)
    done = "1 clip is done" if count == 1 else f"{count} clips are done"
    told = f"nothing to do; {done}"
    return _state(summary, told + (f", {summary.failed} failed" if summary.failed else ""))


def _state(summary: CampaignSummary, told: str) -> State[None]:
    told += f", {summary.withheld} withheld" if summary.withheld else ""
    told += f", {summary.low_identity} low identity" if summary.low_identity else ""
    return Failed(message=told) if summary.exit_code else Completed(message=told)


def _threads(campaign: Campaign) -> int:
    return THREADS_PER_DEVICE * campaign.devices + THREADS_FOR_RETRIES


def _render_rows(campaign: Campaign) -> None:
    threads = _threads(campaign)
    runner = ThreadPoolTaskRunner[Any](max_workers=threads)
    with runner:
        wait(
            [
                runner.submit(render_row, {"campaign": campaign, "turn": turn})
                for turn in campaign.turns(threads=threads)
            ]
        )


def _render_shards(campaign: Campaign) -> None:
    shards = _threads(campaign)
    runner = ThreadPoolTaskRunner[Any](max_workers=shards)
    with runner:
        wait(
            [
                runner.submit(render_shard, {"campaign": campaign, "shard": n, "shards": shards})
                for n in range(1, shards + 1)
            ]
        )
