"""The flow: read, plan, find faces, prepare subjects, render, finish.

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

from flows.run import open_run, prepare_run, stops_on_signals
from flows.tasks import prepare_subject, render_row
from lynx_engine.campaign import Campaign
from lynx_engine.jobs import RenderJob
from lynx_engine.lock import lock_campaign
from lynx_engine.survey import FaceKey, face_key

# One row waits at each device beside the one it renders, so that no device waits for a row.
ROWS_PER_DEVICE = 2
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
            render_campaign(campaign.plan.campaign, return_state=True)
            # What Prefect still has to send goes out while its server lives.
            EventsWorker.drain_all(timeout=DRAIN_S)
    finally:
        _handed_over.reset(token)


@flow(name="render-campaign", flow_run_name="{manifest}", persist_result=False)
def render_campaign(
    manifest: str, devices: str = "auto", skip_bad_rows: bool = False
) -> State[None]:
    """Render one manifest.

    Args:
        manifest: Its path; the campaign's name where the command line hands over the campaign.
        devices: As `lynx-engine render --devices`.
        skip_bad_rows: As `lynx-engine render --skip-bad-rows`.
    """
    campaign = _handed_over.get()
    if campaign is not None:
        return render_all(campaign)
    run = prepare_run(Path(manifest), devices=devices, skip_bad_rows=skip_bad_rows)
    with (
        lock_campaign(run.settings.campaign_dir(run.plan.campaign)) as lock,
        open_run(run, lock) as campaign,
    ):
        return render_all(campaign)


def render_all(campaign: Campaign) -> State[None]:
    """Prepare each subject once, then render every row; the state says how it ended."""
    # The first job of each face: its model is the one that the first rows need, too.
    subjects: dict[FaceKey, RenderJob] = {}
    for planned in campaign.plan.to_run:
        if planned.job.photo is not None:
            subjects.setdefault(face_key(planned.job), planned.job)
    runner = ThreadPoolTaskRunner[Any](max_workers=ROWS_PER_DEVICE * campaign.devices)
    with stops_on_signals(campaign), runner:
        wait(
            [
                runner.submit(prepare_subject, {"campaign": campaign, "job": job})
                for job in subjects.values()
            ]
        )
        wait(
            [
                runner.submit(render_row, {"campaign": campaign, "planned": planned})
                for planned in campaign.plan.to_run
            ]
        )
    summary = campaign.summary()
    told = f"{summary.rendered} rendered, {summary.failed} failed, {summary.interrupted} left"
    return Failed(message=told) if summary.exit_code else Completed(message=told)
