"""The tasks of a campaign, each one library call: what Prefect shows of a row.

Device processes never run these: a task waits in a thread of the flow while the pool works, so its
state is right even when a process dies.
"""

from __future__ import annotations

from collections import Counter

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from lynx_engine import results
from lynx_engine.campaign import Campaign
from lynx_engine.dispatch import Turn
from lynx_engine.gate import likeness_in_words

# `job_id` and the log decide what is done; a Prefect cache would be a second opinion.


@task(
    task_run_name="render {turn.planned.job.clip_name}", cache_policy=NO_CACHE, persist_result=False
)
def render_row(campaign: Campaign, turn: Turn) -> State[None]:
    """Render one row; the task's state is the row's."""
    match campaign.render_row(turn):
        case results.Rendered(low_identity=True):
            # Completed: the clip is there, and no attempt of Prefect's would better it.
            row = turn.planned
            likeness = likeness_in_words(row.job.gate, row.best_score, row.first_try)
            return Completed(message=f"low identity {likeness}: {row.job.clip_name}")
        case results.Rendered(clip):
            return Completed(message=clip)
        case results.Withheld(message):
            return Failed(message=f"withheld: {message}")
        case results.Failed(code, message):
            return Failed(message=f"{code}: {message}")
        case results.Interrupted():
            return Cancelled(message="interrupted; the next run takes it up")


@task(
    task_run_name="render rows, shard {shard} of {shards}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def render_shard(campaign: Campaign, shard: int, shards: int) -> State[None]:
    """Render rows until none is left: Prefect loses task runs that come in thousands."""
    del shard  # names the task run
    ended = Counter(_ending(campaign.render_row(turn)) for turn in campaign.turns(threads=shards))
    told = f"{ended['rendered']} rendered, {ended['failed']} failed"
    told += "".join(
        f", {ended[word]} {word}" for word in ("withheld", "low identity") if ended[word]
    )
    if ended["interrupted"] or campaign.summary().paused or campaign.stopped_by:
        return Cancelled(message=f"{told}; stopped")
    # As of a row's own task: a clip under the gate is there.
    unsuccessful = ended["failed"] or ended["withheld"]
    return Failed(message=told) if unsuccessful else Completed(message=told)


def _ending(result: results.RenderResult) -> str:
    match result:
        case results.Rendered(low_identity=low_identity):
            return "low identity" if low_identity else "rendered"
        case results.Withheld():
            return "withheld"
        case results.Failed():
            return "failed"
        case results.Interrupted():
            return "interrupted"
