"""Attention that also looks at a subject: diffusers' Wan attention plus one more softmax.

The added keys and values are made elsewhere, once a job, and handed to each processor before a
pass. What a processor may keep or take over from another pass is handed to it likewise; it decides
nothing about when that is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from lynx_engine.models.reuse import Scope

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


class SubjectAttention(WanAttnProcessor):
    """Adds a subject to one attention layer of the base model.

    out = W_out (attention(q, k, v) + attention(q', k_subject, v_subject))

    q' is the normed query before RoPE turns it; in cross-attention nothing turns it and q' = q.
    Without a subject it computes what the stock processor does, bit for bit.

    Attributes:
        subject: What the layer sees besides, in the pass that runs; None for nothing. Handed over
            ready, so that a compiled block asks for no number, name or branch.
    """

    def __init__(self, backend: str) -> None:
        """Attend with `backend`, diffusers' name for it."""
        super().__init__()
        self.subject: KeyValue | None = None
        self.use_backend(backend)

    def use_backend(self, backend: str) -> None:
        """Attend with `backend` from now on."""
        # On each processor: diffusers' own setter changes the default of the whole process.
        self._attention_backend = AttentionBackendName(backend)

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
    """Cross-attention that sees the identity tokens beside the text.

    Attributes:
        text: The text's keys and values, where they are known from an earlier pass.
        keeps_text: Whether the layer is to fill `text` when it projects them itself.
    """

    def __init__(self, backend: str) -> None:
        """Attend with `backend`, diffusers' name for it."""
        super().__init__(backend)
        self.text: KeyValue | None = None
        self.keeps_text = False

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend to the text, and to the subject; [B, L, D] -> [B, L, D]."""
        del rotary_emb  # cross-attention has none
        assert encoder_hidden_states is not None  # the block hands over the text
        text = self.read_text(attn, encoder_hidden_states)
        query = _by_head(attn.norm_q(attn.to_q(hidden_states)), attn)
        seen = self._attend(query, text.key, text.value, attention_mask)
        if self.subject is not None:
            seen = seen + self._attend(query, self.subject.key, self.subject.value)
        return _project(attn, seen)

    def read_text(self, attn: WanAttention, text: torch.Tensor) -> KeyValue:
        """Return the text's keys and values, projected only if they are not known."""
        if self.text is not None:
            return self.text
        key, value = attn.norm_k(attn.to_k(text)), attn.to_v(text)
        made = KeyValue(_by_head(key, attn), _by_head(value, attn))
        if self.keeps_text:
            self.text = made
        return made


class ReferenceAttention(SubjectAttention):
    """Self-attention that sees the reference features beside the clip.

    Attributes:
        shared: What the layer may take from other branches of the step, whose input to it is the
            same: the query before RoPE and the clip's attention, or the whole output where no
            subject is added. Nothing is shared without `values`.
    """

    def __init__(self, backend: str) -> None:
        """Attend with `backend`, diffusers' name for it."""
        super().__init__(backend)
        self.shared: Scope | None = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend to the clip, and to the subject; [B, L, D] -> [B, L, D]."""
        del encoder_hidden_states  # self-attention has none

        def clip() -> tuple[torch.Tensor, torch.Tensor]:
            return self._see_clip(attn, hidden_states, attention_mask, rotary_emb)

        subject, shared = self.subject, self.shared
        if subject is None:
            if shared is None:
                return _project(attn, clip()[1])
            return shared.once("output", lambda: _project(attn, clip()[1]))
        query, seen = clip() if shared is None else shared.once("clip", clip)
        return _project(attn, seen + self._attend(query, subject.key, subject.value))

    def _see_clip(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the query before RoPE, and what it sees of the clip; both [B, L, N, D / N]."""
        query = _by_head(attn.norm_q(attn.to_q(hidden_states)), attn)
        key = _by_head(attn.norm_k(attn.to_k(hidden_states)), attn)
        value = _by_head(attn.to_v(hidden_states), attn)
        turned = query
        if rotary_emb is not None:
            turned, key = rotate(query, *rotary_emb), rotate(key, *rotary_emb)
        return query, self._attend(turned, key, value, mask)


class RecordingAttention(WanAttnProcessor):
    """Stock self-attention that keeps its input: a block's reference feature.

    The input is the block's hidden state after its norm and modulation, [1, L, D].
    """

    def __init__(self, records: list[torch.Tensor], backend: str) -> None:
        """Append to `records`, in the order the blocks run."""
        super().__init__()
        self._records = records
        self._attention_backend = AttentionBackendName(backend)

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


def _by_head(x: torch.Tensor, attn: WanAttention) -> torch.Tensor:
    """Split [B, L, D] into heads, [B, L, N, D / N]."""
    return x.unflatten(2, (attn.heads, -1))


def _project(attn: WanAttention, seen: torch.Tensor) -> torch.Tensor:
    """Turn what was seen, [B, L, N, D / N], into the layer's output [B, L, D]."""
    project, dropout = attn.to_out
    return dropout(project(seen.flatten(2)))
