"""From a memory tier to a placement, and from a placement that did not fit to the one below it.

Pure: it knows a number of blocks and no device. What a placement needs, and which one a device has
room for, is estimated elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from lynx_engine.capacity.placement import RESIDENT, Placement

if TYPE_CHECKING:
    from lynx_engine.jobs import RenderJob

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


def choose_placement(job: RenderJob, *, blocks: int) -> Placement:
    """Return where a job's tensors shall lie, before anything is known to fit or not.

    Args:
        job: Its `memory` is the tier asked for; auto means resident here.
        blocks: Transformer blocks of the variant.
    """
    tier = "resident" if job.memory == "auto" else job.memory
    return placement_of_tier(tier, blocks=blocks)


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
