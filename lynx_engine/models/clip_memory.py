"""What the passes of one clip share, and for how long. It knows tensors, no model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lynx_engine.models.attention import KeyValue
from lynx_engine.models.reuse import Sameness


@dataclass(slots=True)
class TextMemory:
    """What the passes with one text share.

    Attributes:
        same: Knows the text tensor.
        values: The projected tokens.
        blocks: Each block's keys and values, None where no pass made them; [] before the first.
    """

    same: Sameness
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    blocks: list[KeyValue | None] = field(default_factory=list[KeyValue | None])


@dataclass(slots=True)
class ClipMemory:
    """What the steps of one clip share.

    Attributes:
        compiled: Whether its passes run compiled.
        laid_over: Names what is laid over the transformer.
        shapes: Shape of the latents -> rotation angles.
        texts: One for each text tensor that was seen.
        nothing: Keys and values that add nothing, by their shape.
    """

    compiled: bool
    laid_over: Hashable = ()
    shapes: dict[torch.Size, dict[str, Any]] = field(default_factory=dict[torch.Size, Any])
    texts: list[TextMemory] = field(default_factory=list[TextMemory])
    nothing: dict[torch.Size, KeyValue] = field(default_factory=dict[torch.Size, KeyValue])

    def text(self, tokens: torch.Tensor) -> TextMemory:
        """Return the memory of one text tensor, empty when it is new."""
        found = next((text for text in self.texts if text.same.holds(tokens)), None)
        if found is None:
            found = TextMemory(Sameness(tokens))
            self.texts.append(found)
        return found

    def for_every_block(
        self, adapted: Mapping[int, KeyValue], blocks: int
    ) -> Mapping[int, KeyValue]:
        """Return keys and values of every block, zeros where there is no adapter, or of none.

        Attention to values of zero adds zero, so that one graph serves adapted and other blocks.
        """
        some = next(iter(adapted.values()), None)
        if some is None or len(adapted) == blocks:
            return adapted
        if some.key.shape not in self.nothing:
            nothing = KeyValue(torch.zeros_like(some.key), torch.zeros_like(some.value))
            self.nothing[some.key.shape] = nothing
        return {n: adapted.get(n, self.nothing[some.key.shape]) for n in range(blocks)}


@dataclass(slots=True)
class StepMemory:
    """What the branches of one step share."""

    same: Sameness | None = None
    values: dict[str, Any] = field(default_factory=dict[str, Any])

    def shared(self, latents: torch.Tensor, timestep: torch.Tensor) -> dict[str, Any] | None:
        """Return the values, or None for other latents than the step's first branch had."""
        if self.same is None:
            self.same = Sameness(latents, timestep)
        return self.values if self.same.holds(latents, timestep) else None
