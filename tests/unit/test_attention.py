"""Attention to a subject, against a plain restatement in float64, and against stock diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanAttnProcessor,
    WanRotaryPosEmbed,
)

from lynx_engine.models.attention import (
    IdentityAttention,
    KeyValue,
    RecordingAttention,
    ReferenceAttention,
    rotate,
)
from lynx_engine.models.reuse import Scope

NATIVE = "native"
HEADS, HEAD_WIDTH = 2, 12
WIDTH = HEADS * HEAD_WIDTH


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        yield


def softmax_attention(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return attention of [L, N, d] arrays, one softmax a head."""
    out = np.empty_like(query)
    for head in range(query.shape[1]):
        scores = np.exp(query[:, head] @ key[:, head].T / np.sqrt(query.shape[2]))
        out[:, head] = scores / scores.sum(1, keepdims=True) @ value[:, head]
    return out


def exact(tensor: torch.Tensor) -> np.ndarray:
    return tensor[0].double().numpy()


def stock_layer(cross_width: int | None = None) -> Any:
    layer: Any = WanAttention(WIDTH, HEADS, HEAD_WIDTH, cross_attention_dim_head=cross_width)
    layer.set_processor(WanAttnProcessor())
    return layer


def subject_kv(tokens: int = 5) -> KeyValue:
    shape = (1, tokens, HEADS, HEAD_WIDTH)
    return KeyValue(torch.randn(shape), torch.randn(shape))


def project(attn: Any, x: torch.Tensor, layer: str) -> torch.Tensor:
    return getattr(attn, layer)(x).unflatten(2, (HEADS, -1))


def test_identity_attention_adds_a_softmax_of_its_own_before_the_output_projection() -> None:
    attn = stock_layer(HEAD_WIDTH)
    clip, text, kv = torch.randn(1, 7, WIDTH), torch.randn(1, 9, WIDTH), subject_kv()
    query = exact(attn.norm_q(attn.to_q(clip)).unflatten(2, (HEADS, -1)))
    key = exact(attn.norm_k(attn.to_k(text)).unflatten(2, (HEADS, -1)))
    seen = softmax_attention(query, key, exact(project(attn, text, "to_v")))
    seen = seen + softmax_attention(query, exact(kv.key), exact(kv.value))
    expected = attn.to_out[0](torch.from_numpy(seen.reshape(1, 7, WIDTH)).float())

    processor = IdentityAttention(NATIVE)
    processor.subject = kv
    attn.set_processor(processor)
    torch.testing.assert_close(attn(clip, text), expected, atol=1e-5, rtol=0)


def test_reference_attention_uses_the_query_before_its_rotation() -> None:
    attn = stock_layer()
    rope = WanRotaryPosEmbed(HEAD_WIDTH, (1, 2, 2), 32)
    angles = rope(torch.zeros(1, 16, 2, 4, 6))
    clip, kv = torch.randn(1, 12, WIDTH), subject_kv()
    stock = attn(clip, rotary_emb=angles)
    query = exact(attn.norm_q(attn.to_q(clip)).unflatten(2, (HEADS, -1)))
    seen = softmax_attention(query, exact(kv.key), exact(kv.value)).reshape(1, 12, WIDTH)
    # The output projection is linear: what the subject adds passes it without the bias.
    added = torch.from_numpy(seen).float() @ attn.to_out[0].weight.T

    processor = ReferenceAttention(NATIVE)
    processor.subject = kv
    attn.set_processor(processor)
    torch.testing.assert_close(attn(clip, rotary_emb=angles), stock + added, atol=1e-5, rtol=0)


def test_layer_without_a_subject_is_stock_bit_for_bit() -> None:
    cross, own = stock_layer(HEAD_WIDTH), stock_layer()
    clip, text = torch.randn(1, 12, WIDTH), torch.randn(1, 9, WIDTH)
    angles = WanRotaryPosEmbed(HEAD_WIDTH, (1, 2, 2), 32)(torch.zeros(1, 16, 2, 4, 6))
    stock = cross(clip, text), own(clip, rotary_emb=angles)
    cross.set_processor(IdentityAttention(NATIVE))
    own.set_processor(ReferenceAttention(NATIVE))
    assert torch.equal(cross(clip, text), stock[0])
    assert torch.equal(own(clip, rotary_emb=angles), stock[1])


def test_known_text_is_not_projected_again_and_gives_the_same_bits() -> None:
    attn = stock_layer(HEAD_WIDTH)
    clip, text = torch.randn(1, 7, WIDTH), torch.randn(1, 9, WIDTH)
    processor = IdentityAttention(NATIVE)
    attn.set_processor(processor)
    fresh = attn(clip, text)
    assert processor.text is None
    processor.keeps_text = True
    assert torch.equal(attn(clip, text), fresh)
    assert processor.text is not None
    # What is known is believed: the tokens themselves are not looked at any more.
    assert torch.equal(attn(clip, torch.full_like(text, torch.nan)), fresh)


@pytest.mark.parametrize("with_subject", [True, False])
def test_shared_view_of_the_clip_gives_each_branch_its_own_bits(with_subject: bool) -> None:
    attn = stock_layer()
    angles = WanRotaryPosEmbed(HEAD_WIDTH, (1, 2, 2), 32)(torch.zeros(1, 16, 2, 4, 6))
    clip = torch.randn(1, 12, WIDTH)
    subjects = [subject_kv() if with_subject else None for _ in range(3)]
    processor = ReferenceAttention(NATIVE)
    attn.set_processor(processor)

    def outputs() -> list[torch.Tensor]:
        made: list[torch.Tensor] = []
        for subject in subjects:
            processor.subject = subject
            made.append(attn(clip, rotary_emb=angles))
        return made

    alone = outputs()
    processor.shared = Scope()
    processor.shared.values = {}
    assert all(map(torch.equal, outputs(), alone))
    tensors = processor.shared.values.values()
    assert len(tensors) == 1


def test_recorder_keeps_the_input_and_changes_nothing() -> None:
    attn = stock_layer()
    clip = torch.randn(1, 6, WIDTH)
    stock = attn(clip)
    records: list[torch.Tensor] = []
    attn.set_processor(RecordingAttention(records, NATIVE))
    assert torch.equal(attn(clip), stock)
    assert torch.equal(records[0], clip)


def test_rotation_is_multiplication_of_complex_numbers() -> None:
    x = torch.randn(1, 5, HEADS, HEAD_WIDTH)
    angle = torch.rand(1, 5, 1, HEAD_WIDTH // 2) * 6
    cos, sin = (f(angle).repeat_interleave(2, dim=-1) for f in (torch.cos, torch.sin))
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * torch.exp(1j * angle)
    expected = torch.view_as_real(turned).flatten(-2)
    torch.testing.assert_close(rotate(x, cos, sin), expected, atol=1e-6, rtol=0)


def test_a_processor_leaves_the_process_default_alone() -> None:
    IdentityAttention(NATIVE)
    assert WanAttnProcessor._attention_backend is None
