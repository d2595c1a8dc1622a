"""Where a job's tensors lie: the one description that estimates and engines share."""

from __future__ import annotations

from dataclasses import dataclass

TIERS = ("resident", "balanced", "low")
"""From the largest device to the smallest."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a job's tensors lie while it renders.

    Everything but `vae_tiled` leaves each bit of the result as it is.

    The text encoder always waits in host memory and passes through the device block by block. The
    adapters' weights always wait there, and one layer at a time visits while it projects.

    Attributes:
        tier: resident, balanced or low.
        streamed_blocks: Transformer blocks, the last ones, that wait in host memory and visit the
            device while they compute, the next one fetched meanwhile.
        others_wait: Autoencoder, recogniser and resampler wait in host memory between uses.
        blocks_leave_for_decode: The transformer leaves the device while the clip is decoded.
        keeps_text_kv: The text's keys and values of every block stay on the device over all steps;
            otherwise each step projects them anew.
        shares_first_block: The branches of a step share what is equal up to and in their first
            block: embedded clip and what the block sees of it, which keeps two tensors [1, L, D]
            on the device, three where a reference is seen besides.
        vae_tiled: The clip is decoded in overlapping tiles, which changes pixels by rounding.
    """

    tier: str
    streamed_blocks: int = 0
    others_wait: bool = False
    blocks_leave_for_decode: bool = False
    keeps_text_kv: bool = True
    shares_first_block: bool = True
    vae_tiled: bool = False


RESIDENT = Placement("resident")
"""Everything on the device that is used in every step."""
