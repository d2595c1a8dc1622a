"""Chooses where a job's tensors lie: the fastest placement that fits the memory there is.

It asks the estimator and decides; it neither reads a device nor moves a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lynx_engine.capacity.architecture import Architecture
from lynx_engine.capacity.extras import NO_EXTRAS, Extras
from lynx_engine.capacity.memory import GIB, Estimate, estimate_host, estimate_memory
from lynx_engine.capacity.placement import TIERS, Placement
from lynx_engine.shapes import FrameSize

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Choice:
    """A placement and what it needs."""

    placement: Placement
    estimate: Estimate


class DoesNotFit(Exception):  # noqa: N818  # a finding, which callers turn into their own letters
    """No placement of the tiers asked for fits.

    Attributes:
        needed_bytes: What the smallest one needs, its reserve included.
        free_bytes: What there is.
    """

    def __init__(self, needed_bytes: int, free_bytes: int, advice: str) -> None:
        """Say by how much it does not fit, and what to do."""
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        super().__init__(
            f"needs {needed_bytes / GIB:.1f} GiB at its smallest, "
            f"{free_bytes / GIB:.1f} GiB is free. {advice}"
        )


def choose_placement(
    asked: str,
    architecture: Architecture,
    *,
    frames: int,
    size: FrameSize,
    precision: str,
    numerics: str,
    free_bytes: int,
    extras: Extras = NO_EXTRAS,
) -> Placement:
    """Return the fastest placement that fits.

    Everything resident comes first; then autoencoder and subject models wait between uses and the
    blocks leave for the decode (seconds a clip); then the text's keys and values are projected anew
    and the first block is not shared (a percent of the time). Below that, blocks are streamed, as
    few as will fit: their journey hides behind the block before. The clip is decoded in tiles only
    if it does not fit whole, and never under strict numerics.

    Args:
        asked: auto, or a tier: resident, balanced or low.
        architecture: The variant's networks.
        frames: F.
        size: Width and height in pixels.
        precision: Of the transformer.
        numerics: normal or strict.
        free_bytes: What the job may take: free memory once CUDA has started, and what this
            process itself holds on the device already and would give back.
        extras: The job's shortcut and LoRAs.

    Raises:
        DoesNotFit: If no placement of the tier fits, with the numbers.
        ValueError: If `asked` is no tier.
    """
    return choose(
        asked,
        architecture,
        frames=frames,
        size=size,
        precision=precision,
        numerics=numerics,
        free_bytes=free_bytes,
        extras=extras,
    ).placement


def choose(
    asked: str,
    architecture: Architecture,
    *,
    frames: int,
    size: FrameSize,
    precision: str,
    numerics: str,
    free_bytes: int,
    extras: Extras = NO_EXTRAS,
) -> Choice:
    """As `choose_placement`, with the estimate.

    Raises:
        DoesNotFit: If no placement of the tier fits, with the numbers.
        ValueError: If `asked` is no tier.
    """
    if asked not in (AUTO, *TIERS):
        raise ValueError(f"{asked!r} is no memory tier; write auto, {', '.join(TIERS)}")
    smallest: Estimate | None = None
    for placement in _candidates(asked, architecture.transformer.blocks, numerics):
        estimate = estimate_memory(
            architecture, placement, frames=frames, size=size, precision=precision, extras=extras
        )
        if estimate.needed_bytes <= free_bytes:
            return Choice(placement, estimate)
        if smallest is None or estimate.needed_bytes < smallest.needed_bytes:
            smallest = estimate
    assert smallest is not None  # every tier has candidates
    raise DoesNotFit(smallest.needed_bytes, free_bytes, _advice(asked, smallest, numerics))


def choose_on_cpu(
    architecture: Architecture,
    *,
    frames: int,
    size: FrameSize,
    precision: str,
    free_bytes: int,
    extras: Extras = NO_EXTRAS,
) -> Choice:
    """Return the placement of a job that renders on the CPU: everything in the machine's memory.

    Raises:
        DoesNotFit: If that memory is too small.
    """
    estimate = estimate_host(
        architecture, frames=frames, size=size, precision=precision, extras=extras
    )
    if estimate.needed_bytes > free_bytes:
        advice = "Choose a machine with more memory, or a smaller variant."
        raise DoesNotFit(estimate.needed_bytes, free_bytes, advice)
    return Choice(Placement("resident"), estimate)


def _candidates(asked: str, blocks: int, numerics: str) -> Iterator[Placement]:
    """Yield placements, the fastest first, then those that change pixels."""
    tiers = [tier for tier in TIERS if asked in (AUTO, tier)]
    for tier in tiers:
        yield from _of_tier(tier, blocks)
    if numerics == "strict":
        return
    # Whole clips are decoded alone on the device before: tiles help where even that is too much.
    for tier in tiers:
        for placement in _of_tier(tier, blocks):
            if placement.others_wait:
                yield replace(placement, vae_tiled=True)


def _of_tier(tier: str, blocks: int) -> Iterator[Placement]:
    waiting = Placement(tier, others_wait=True, blocks_leave_for_decode=True)
    if tier == "resident":
        yield Placement(tier)
        yield replace(waiting, others_wait=False)
        yield waiting
        yield replace(waiting, keeps_text_kv=False)
        yield replace(waiting, keeps_text_kv=False, shares_first_block=False)
    elif tier == "balanced":
        # One streamed block needs room for two of them: it would save nothing.
        for streamed in range(3, blocks) or (blocks,):
            yield replace(waiting, streamed_blocks=streamed)
    else:
        low = replace(waiting, streamed_blocks=blocks, keeps_text_kv=False)
        yield low
        yield replace(low, shares_first_block=False)


def _advice(asked: str, smallest: Estimate, numerics: str) -> str:
    phase = smallest.largest_phase
    if asked not in (AUTO, TIERS[-1]):
        return f"Most is needed to {phase}. Ask for memory: auto, which goes further down."
    if phase == "decode" and numerics == "strict":
        return "Most is needed to decode; numerics: normal may decode in tiles."
    return f"Most is needed to {phase}. Choose fewer frames, a smaller size or a larger device."
