"""The tasks of a campaign, each one library call: what Prefect shows of a row.

Device processes never run these: a task waits in a thread of the flow while the pool works, so its
state is right even when a process dies.
"""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from lynx_engine import jobs
from lynx_engine.campaign import Campaign

# `job_id` and the log decide what is done; a Prefect cache would be a second opinion.


@task(task_run_name="render {planned.job.clip_name}", cache_policy=NO_CACHE, persist_result=False)
def render_row(campaign: Campaign, planned: jobs.PlannedJob) -> State[None]:
    """Render one row; the task's state is the row's."""
    match campaign.render_row(planned):
        case jobs.Rendered(clip):
            return Completed(message=clip)
        case jobs.Failed(code, message):
            return Failed(message=f"{code}: {message}")
        case jobs.Interrupted():
            return Cancelled(message="interrupted; the next run takes it up")


@task(task_run_name="prepare {job.subject}", cache_policy=NO_CACHE, persist_result=False)
def prepare_subject(campaign: Campaign, job: jobs.RenderJob) -> None:
    """Embed one subject's face before its rows begin."""
    campaign.prepare_subject(job)
