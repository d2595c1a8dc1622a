"""The flow: read, plan, find faces, prepare subjects, render, finish.

Import it only where a Prefect API is at hand (`flows.run` sees to that): prefect reads its settings
from the environment when it is first imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.futures import wait
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.run import handed_over, open_run, prepare_run, stops_on_signals
from flows.tasks import prepare_subject, render_row
from lynx_engine.campaign import Campaign
from lynx_engine.survey import face_key

# One row waits at each device beside the one it renders, so that no device waits for a row.
ROWS_PER_DEVICE = 2


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
    campaign = handed_over.get()
    if campaign is not None:
        return render_all(campaign)
    run = prepare_run(Path(manifest), devices=devices, skip_bad_rows=skip_bad_rows)
    with open_run(run) as campaign:
        return render_all(campaign)


def render_all(campaign: Campaign) -> State[None]:
    """Prepare each subject once, then render every row; the state says how it ended."""
    subjects = {face_key(p.job): p.job for p in campaign.plan.to_run if p.job.photo is not None}
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
