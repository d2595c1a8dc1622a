"""Applies placements to the networks of one engine, and remembers what did not fit its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lynx_engine.capacity.placement import RESIDENT, Placement
from lynx_engine.models.tiers import VAE_TILING, step_down

if TYPE_CHECKING:
    from lynx_engine.models.blocks import TransformerResidence
    from lynx_engine.models.residence import Residence
    from lynx_engine.models.wan import WanDenoiser


class Placer:
    """Holds the placement in force and moves networks when it changes.

    Attributes:
        placement: The one wanted; `apply` makes it so.
    """

    def __init__(
        self, denoiser: WanDenoiser, blocks: TransformerResidence, others: Sequence[Residence]
    ) -> None:
        """Begin with everything in its files.

        Args:
            denoiser: Reads of a placement what concerns a step.
            blocks: Places the transformer's tensors.
            others: Place the networks that are used between steps only.
        """
        self.placement = RESIDENT
        self._denoiser = denoiser
        self._blocks = blocks
        self._others = others
        # Rung -> the smallest job that needed it, in values of its clip.
        self._needed: dict[str, int] = {}

    def start(self, placement: Placement, *, job_size: int, strict: bool) -> tuple[str, ...]:
        """Want a job's placement, below which it stands what jobs no larger than it needed.

        Args:
            placement: As chosen for the job.
            job_size: Frames times height times width.
            strict: Whether no bit may move, which forbids tiles.

        Returns:
            The rungs in force.
        """
        self.placement = replace(placement, vae_tiled=placement.vae_tiled and not strict)
        rungs = [rung for rung, size in self._needed.items() if size <= job_size]
        return tuple(rung for rung in rungs if self._lower(rung))

    def step_down(self, rung: str, *, job_size: int) -> bool:
        """Want the placement below; return whether there is one by this rung.

        Tiles are for this job alone: they change pixels, and a clip must not depend on what was
        rendered before it.
        """
        changed = self._lower(rung)
        if changed and rung != VAE_TILING:
            self._needed[rung] = min(job_size, self._needed.get(rung, job_size))
        return changed

    @property
    def is_applied(self) -> bool:
        """Whether the transformer lies as wanted already."""
        return self._blocks.is_placed(self.placement.streamed_blocks)

    def apply(self) -> None:
        """Move what does not lie as wanted; nothing is done where all does.

        Raises:
            RowError: WEIGHTS, if a file is gone, damaged or holds numbers that are not finite.
        """
        wanted = self.placement
        if wanted.others_wait:
            for network in self._others:
                network.leave()
        self._blocks.place(wanted.streamed_blocks, leaves=wanted.blocks_leave_for_decode)
        if not wanted.others_wait:
            for network in self._others:
                network.stay()
        self._denoiser.placement = wanted

    def make_room_to_decode(self) -> None:
        """Let the transformer leave where the placement says so."""
        if self.placement.blocks_leave_for_decode:
            self._blocks.leave()
        if self.placement.others_wait:
            for network in self._others:
                network.leave()

    def _lower(self, rung: str) -> bool:
        lower = step_down(self.placement, rung, blocks=self._denoiser.blocks)
        changed = lower != self.placement
        self.placement = lower
        return changed
