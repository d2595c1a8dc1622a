"""Operations and predicted seconds of a clip."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from lynx_engine.capacity.architecture import Architecture, VaeSize
from lynx_engine.capacity.cost import (
    Speeds,
    Work,
    clip_operations,
    decode_operations,
    pass_operations,
    predict_seconds,
)
from lynx_engine.capacity.placement import RESIDENT, Placement
from lynx_engine.models.measure import Timing, fit_block, fit_line
from lynx_engine.shapes import FrameSize
from lynx_engine.variants import get_variant
from lynx_engine.variants.dimensions import architecture_of

SIZE = FrameSize(832, 480)
WORK = Work(81, SIZE, 50, "bfloat16")
SPEEDS = Speeds(
    matrix_rate=1e14,
    upload_rate=2e10,
    block_s=(0.0, 1e-6, 1e-10),
    pass_s=(0.001, 0.0),
    step_s=0.01,
    text_layer_s=0.001,
    decode_s=(0.0, 1e-7),
)


def published(variant: str) -> Architecture:
    architecture = architecture_of(get_variant(variant), None)
    assert architecture is not None
    return architecture


@pytest.mark.parametrize(
    ("variant", "frames", "a_pass", "a_decode", "a_clip"),
    # Published for Lynx at its defaults: TFLOP of a pass and a decode, PFLOP of a clip.
    [("lynx_full", 81, 1687, 275, 253), ("lynx_lite", 121, 3095, 411, 309)],
)
def test_14b_computes_what_was_counted_for_it(
    variant: str, frames: int, a_pass: int, a_decode: int, a_clip: int
) -> None:
    architecture = published(variant)
    tokens = architecture.transformer.tokens(frames, 480, 832)
    assert pass_operations(architecture, tokens) / 1e12 == pytest.approx(a_pass, rel=0.005)
    assert decode_operations(architecture.vae, frames, 480 * 832) / 1e12 == pytest.approx(
        a_decode, rel=0.005
    )
    work = replace(WORK, frames=frames)
    assert clip_operations(architecture, work) / 1e15 == pytest.approx(a_clip, rel=0.005)


def test_decode_is_counted_as_torch_counts_it() -> None:
    size = VaeSize(8, residuals=1)
    with torch.device("meta"):
        vae = AutoencoderKLWan(base_dim=8, num_res_blocks=1)
        latents = torch.empty(1, 16, 3, 8, 16)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae.decode(latents, return_dict=False)
    counted = decode_operations(size, 9, 64 * 128)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_a_clip_takes_its_steps_times_its_branches() -> None:
    full = published("lynx_full")
    stages = predict_seconds(full, WORK, RESIDENT, SPEEDS)
    block = 1e-6 * 32760 + 1e-10 * 32760**2
    assert stages["denoise"] == pytest.approx(50 * (3 * (40 * block + 0.001) + 0.01))
    assert stages["decode"] == pytest.approx(1e-7 * 81 * 480 * 832)


def test_streaming_is_free_where_the_journey_is_shorter_than_the_block() -> None:
    full = published("lynx_full")
    streamed = Placement("balanced", streamed_blocks=40)
    resident = predict_seconds(full, WORK, RESIDENT, SPEEDS)["denoise"]
    assert predict_seconds(full, WORK, streamed, SPEEDS)["denoise"] == resident
    slow = replace(SPEEDS, upload_rate=1e9)
    journey = 351_394_304 * 2 / 1e9
    waited = predict_seconds(full, WORK, streamed, slow)["denoise"]
    assert waited == pytest.approx(50 * (3 * (40 * journey + 0.001) + 0.01))


def test_blocks_that_leave_for_the_decode_come_back() -> None:
    full = published("lynx_full")
    leaving = replace(RESIDENT, blocks_leave_for_decode=True)
    stay, leave = (predict_seconds(full, WORK, p, SPEEDS)["decode"] for p in (RESIDENT, leaving))
    assert leave - stay == pytest.approx(40 * 351_394_304 * 2 / 2e10)


def test_fitted_line_is_the_one_that_was_measured() -> None:
    block = [Timing(n, 0.001 + 2e-6 * n + 3e-11 * n * n, 0.0) for n in (3120, 9360, 32760, 48360)]
    c, a, b = fit_block(block, published("lynx_full"), 1e14)
    assert (c, a, b) == pytest.approx((0.001, 2e-6, 3e-11))
    line = [(n, 0.5 + 0.25 * n, 1.0) for n in (1, 5, 9)]
    assert fit_line(line) == pytest.approx((0.5, 0.25))


def test_noise_never_makes_a_speed_negative() -> None:
    jumping = [Timing(100, 0.02, 0.0), Timing(200, 0.01, 0.0), Timing(400, 0.011, 0.0)]
    assert min(fit_block(jumping, published("lynx_full"), 1e12)) >= 0
    assert min(fit_line([(1, 2.0, 2.0), (2, 1.0, 1.0)])) >= 0


def test_attention_of_long_clips_is_not_forgotten_on_devices_too_slow_to_measure_it() -> None:
    short = [Timing(n, 0.01 * n, 0.0) for n in (32, 48, 192)]
    _, _, b = fit_block(short, published("lynx_full"), 1e11)
    assert b >= 4 * 5120 / 1e11
