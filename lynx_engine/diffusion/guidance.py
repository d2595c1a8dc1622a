"""How the branches of one step become one velocity. It knows formulas, not what made the branches.

All velocities are float32, [B, C, T, h, w].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


class Guidance(Protocol):
    """Combines the predictions of one step, given in the order of `VariantSpec.branches`."""

    def combine(self, velocities: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the velocity the sampler follows."""
        ...


@dataclass(frozen=True, slots=True)
class TextGuidance:
    """Ordinary guidance over two branches: Wan's own, and Lynx lite's.

    v = v_u + s_txt (v_full - v_u)

    With s_txt = 1 the unconditional branch cancels. v_u has the negative prompt, and in Lynx lite
    the identity tokens of a zero embedding; v_full has the prompt and the subject.

    Attributes:
        text: s_txt.
    """

    text: float

    def combine(self, velocities: Sequence[torch.Tensor]) -> torch.Tensor:
        """Combine (v_u, v_full)."""
        v_u, v_full = velocities
        return v_u + self.text * (v_full - v_u)


@dataclass(frozen=True, slots=True)
class IdentityGuidance:
    """Guidance over three branches, Lynx full's: towards the subject, then towards the text.

    v = v_u + s_id (v_id - v_u) + s_txt (v_full - v_id)

    v_u has the negative prompt and no subject, v_id the negative prompt and the subject, v_full
    the prompt and the subject. With s_id = s_txt the identity branch cancels and ordinary guidance
    remains.

    Attributes:
        text: s_txt.
        identity: s_id.
    """

    text: float
    identity: float

    def combine(self, velocities: Sequence[torch.Tensor]) -> torch.Tensor:
        """Combine (v_u, v_id, v_full)."""
        v_u, v_id, v_full = velocities
        return v_u + self.identity * (v_id - v_u) + self.text * (v_full - v_id)


@dataclass(frozen=True, slots=True)
class DistilledGuidance:
    """No guidance over the one branch of a step-distilled model, which has learned it.

    v = v_full, as both other formulas give with every scale at 1.
    """

    def combine(self, velocities: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the only prediction."""
        (v_full,) = velocities
        return v_full
