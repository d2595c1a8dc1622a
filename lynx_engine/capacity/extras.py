"""What a job asks for beyond its variant and shape that changes its memory and its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lynx_engine.capacity.architecture import Architecture
from lynx_engine.speed import DISTILLED, EXACT, is_cached

if TYPE_CHECKING:
    from lynx_engine.jobs import RenderJob


@dataclass(frozen=True, slots=True)
class Extras:
    """A shortcut and LoRAs.

    Attributes:
        speed: `exact`, or a lossy shortcut by its recorded name.
        lora_numbers: Numbers that LoRAs add to the transformer.
    """

    speed: str = EXACT
    lora_numbers: int = 0

    @property
    def is_cached(self) -> bool:
        """Whether a step cache keeps what each branch added last."""
        return is_cached(self.speed)

    @property
    def prompts(self) -> int:
        """Texts of a step: a distilled job has no negative prompt."""
        return 1 if self.speed == DISTILLED else 2

    @property
    def adapter_sets(self) -> int:
        """Sets of adapter keys and values: with the subject, and without where one is steered."""
        return 1 if self.speed == DISTILLED else 2

    def branches(self, architecture: Architecture) -> int:
        """Return the passes of one step; the guidance of a distilled job is in its LoRA."""
        return 1 if self.speed == DISTILLED else architecture.branches


NO_EXTRAS = Extras()


def extras_of(job: RenderJob) -> Extras:
    """Return what a job asks for."""
    return Extras(job.speed, sum(lora.numbers for lora in job.loras))
