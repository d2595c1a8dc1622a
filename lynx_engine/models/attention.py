"""Attention that also looks at a subject: diffusers' Wan attention plus one more softmax.

The added keys and values are made elsewhere, once a job. Here a processor only reads those of the
branch in force, so changing the branch is one assignment.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_wan import WanAttention


@dataclass(frozen=True, slots=True)
class KeyValue:
    """What one block's query may look at.

    Attributes:
        key: [1, L, N, D / N], normed, not rotated.
        value: [1, L, N, D / N], the adapter scale already multiplied in: softmax is linear in
            the values, and these are far fewer than the results it would otherwise scale.
    """

    key: torch.Tensor
    value: torch.Tensor


@dataclass(frozen=True, slots=True)
class AdapterKV:
    """The adapters' keys and values of one branch, by block; a block without any attends as stock.

    Attributes:
        identity: Block number -> what its cross-attention sees beside the text.
        reference: Block number -> what its self-attention sees beside the clip.
    """

    identity: Mapping[int, KeyValue] = field(default_factory=dict[int, KeyValue])
    reference: Mapping[int, KeyValue] = field(default_factory=dict[int, KeyValue])


NO_ADAPTERS = AdapterKV()


class ActiveBranch:
    """The keys and values the processors of one transformer read now."""

    def __init__(self) -> None:
        """Start without adapters."""
        self.adapters = NO_ADAPTERS


class SubjectAttention(WanAttnProcessor):
    """Adds a subject to one attention layer of the base model.

    out = W_out (attention(q, k, v) + attention(q', k_subject, v_subject))

    q' is the normed query before RoPE turns it; in cross-attention nothing turns it and q' = q.
    Without subject keys the stock processor runs.
    """

    def __init__(self, block: int, active: ActiveBranch, backend: AttentionBackendName) -> None:
        """Serve block number `block`, reading `active` at every call."""
        super().__init__()
        self._block = block
        self._active = active
        # Set on each processor: diffusers' own setter changes the default of the whole process.
        self._attention_backend = backend

    @abstractmethod
    def subject(self) -> KeyValue | None:
        """Return what the branch in force adds to this layer."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend to the clip or the text, and to the subject; [B, L, D] -> [B, L, D]."""
        subject = self.subject()
        if subject is None:
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb
            )
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        heads = (attn.heads, -1)
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, heads)
        key = attn.norm_k(attn.to_k(source)).unflatten(2, heads)
        value = attn.to_v(source).unflatten(2, heads)

        seen = self._attend(query, subject.key, subject.value)
        if rotary_emb is not None:
            query, key = rotate(query, *rotary_emb), rotate(key, *rotary_emb)
        seen = seen + self._attend(query, key, value, attention_mask)
        project, dropout = attn.to_out
        return dropout(project(seen.flatten(2)))

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        out = dispatch_attention_fn(
            query, key, value, attn_mask=mask, backend=self._attention_backend
        )
        return out.type_as(query)


class IdentityAttention(SubjectAttention):
    """Cross-attention that sees the identity tokens beside the text."""

    def subject(self) -> KeyValue | None:
        """Return the identity keys and values of this block."""
        return self._active.adapters.identity.get(self._block)


class ReferenceAttention(SubjectAttention):
    """Self-attention that sees the reference features beside the clip."""

    def subject(self) -> KeyValue | None:
        """Return the reference keys and values of this block."""
        return self._active.adapters.reference.get(self._block)


class RecordingAttention(WanAttnProcessor):
    """Stock self-attention that keeps its input: a block's reference feature.

    The input is the block's hidden state after its norm and modulation, [1, L, D].
    """

    def __init__(self, records: list[torch.Tensor], backend: AttentionBackendName) -> None:
        """Append to `records`, in the order the blocks run."""
        super().__init__()
        self._records = records
        self._attention_backend = backend

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Record the input, then attend as stock."""
        self._records.append(hidden_states)
        return super().__call__(
            attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb
        )


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn each pair of neighbouring channels by its angle (rotary position embedding).

    (a, b) -> (a cos - b sin, a sin + b cos)

    Args:
        x: [B, L, N, D / N].
        cos: [1, L, 1, D / N], each angle written twice, as diffusers' Wan makes them.
        sin: Likewise.

    Returns:
        Of the shape and type of `x`; computed in the type of the angles, float32.
    """
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[..., 0::2], sin[..., 0::2]
    turned = torch.empty_like(x)
    turned[..., 0::2] = a * cos - b * sin
    turned[..., 1::2] = a * sin + b * cos
    return turned
