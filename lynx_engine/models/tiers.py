"""From a memory tier to a placement, and from a placement that did not fit to the one below it.

It knows a number of blocks and no device. What a placement needs is estimated in `capacity`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from lynx_engine.capacity.choose import AUTO, DoesNotFit, choose_placement
from lynx_engine.capacity.extras import extras_of
from lynx_engine.capacity.placement import RESIDENT, TIERS, Placement

if TYPE_CHECKING:
    from lynx_engine.capacity.architecture import Architecture
    from lynx_engine.jobs import RenderJob

logger = logging.getLogger(__name__)

FREE_CACHES, VAE_TILING = "free_caches", "vae_tiling"
OTHERS_WAIT, BLOCKS_LEAVE, REPROJECT = "others_wait", "blocks_leave", "reproject"
STREAM_QUARTER, STREAM_HALF, STREAM_ALL = "stream_quarter", "stream_half", "stream_all"

SAMPLING_RUNGS = (
    FREE_CACHES,
    OTHERS_WAIT,
    STREAM_QUARTER,
    STREAM_HALF,
    STREAM_ALL,
    REPROJECT,
)
"""What helps to load and to sample, from the top of the memory ladder down; moves no bit."""

DECODING_RUNGS = (FREE_CACHES, OTHERS_WAIT, BLOCKS_LEAVE)
"""What helps to decode without moving a bit."""

TILED_DECODING_RUNGS = (*DECODING_RUNGS, VAE_TILING)
"""What helps to decode where rounding may differ."""


def place_job(
    job: RenderJob, *, blocks: int, architecture: Architecture | None, spendable_bytes: int | None
) -> Placement:
    """Return where a job's tensors shall lie: in the tier it asks for, the fastest that fits.

    Where nothing fits by the estimate, the lowest placement of the tier is tried all the same: the
    memory ladder knows what really fits.

    Args:
        job: Its `memory` is the tier asked for.
        blocks: Transformer blocks of the variant.
        architecture: The variant's dimensions.
        spendable_bytes: What the job may take of its device; None where that is host memory, in
            which auto means resident.
    """
    if architecture is None or spendable_bytes is None:
        return placement_of_tier("resident" if job.memory == AUTO else job.memory, blocks=blocks)
    try:
        return choose_placement(
            job.memory,
            architecture,
            frames=job.frames,
            size=job.size,
            precision=job.precision,
            numerics=job.numerics,
            free_bytes=spendable_bytes,
            extras=extras_of(job),
        )
    except DoesNotFit as finding:
        logger.warning("%s: %s %s It is tried all the same.", job.job_id[:12], job.variant, finding)
        return placement_of_tier(TIERS[-1] if job.memory == AUTO else job.memory, blocks=blocks)


def placement_of_tier(tier: str, *, blocks: int) -> Placement:
    """Return the placement a tier stands for where nothing is known of the device.

    Args:
        tier: resident, balanced or low.
        blocks: Transformer blocks of the variant.

    Raises:
        ValueError: If there is no such tier.
    """
    if tier == "resident":
        return RESIDENT
    waiting = replace(RESIDENT, others_wait=True, blocks_leave_for_decode=True)
    if tier == "balanced":
        return replace(waiting, tier=tier, streamed_blocks=-(-blocks // 2))
    if tier == "low":
        return replace(
            waiting,
            tier=tier,
            streamed_blocks=blocks,
            keeps_text_kv=False,
            shares_first_block=False,
        )
    raise ValueError(f"there is no memory tier {tier}")


def step_down(placement: Placement, rung: str, *, blocks: int) -> Placement:
    """Return the placement below `placement` that a rung stands for.

    A placement that is as low already comes back as it is, and so it does for the rungs that are
    no matter of placement.

    Args:
        placement: The one that did not fit.
        rung: One of the rungs above.
        blocks: Transformer blocks of the variant.
    """
    change = _CHANGES.get(rung)
    lower = placement if change is None else change(placement, blocks)
    # Only what a person would notice makes another tier: how many blocks are streamed.
    if lower.streamed_blocks > placement.streamed_blocks:
        tier = "low" if lower.streamed_blocks >= blocks else "balanced"
        return replace(lower, tier=tier)
    return lower


def _streaming(share: float) -> Callable[[Placement, int], Placement]:
    def change(placement: Placement, blocks: int) -> Placement:
        wanted = max(1, round(share * blocks))
        return replace(placement, streamed_blocks=max(placement.streamed_blocks, wanted))

    return change


_CHANGES: Mapping[str, Callable[[Placement, int], Placement]] = {
    OTHERS_WAIT: lambda placement, _: replace(placement, others_wait=True),
    BLOCKS_LEAVE: lambda placement, _: replace(placement, blocks_leave_for_decode=True),
    STREAM_QUARTER: _streaming(0.25),
    STREAM_HALF: _streaming(0.5),
    STREAM_ALL: _streaming(1.0),
    REPROJECT: lambda placement, _: replace(
        placement, keeps_text_kv=False, shares_first_block=False
    ),
    VAE_TILING: lambda placement, _: replace(placement, vae_tiled=True),
}
