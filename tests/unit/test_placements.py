"""Where tensors lie changes no bit, and they lie where the placement says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lynx_engine.capacity.architecture import Architecture
from lynx_engine.capacity.memory import estimate_memory
from lynx_engine.capacity.placement import RESIDENT, Placement
from lynx_engine.engine import RenderEngine
from lynx_engine.errors import RowError
from lynx_engine.jobs import RenderJob
from lynx_engine.models.checkpoint import ensure_weights
from lynx_engine.models.tiers import (
    DECODING_RUNGS,
    SAMPLING_RUNGS,
    TILED_DECODING_RUNGS,
    place_job,
    placement_of_tier,
    step_down,
)
from lynx_engine.variants import get_variant
from lynx_engine.variants.dimensions import architecture_of
from tests.support.renders import ASTRONAUT_LANDMARKS, astronaut, make_job, make_small_job
from tests.support.weights import write_public_layout

JOB = replace(make_job("tiny"), frames=5, steps=2)
BLOCKS = 4


def full_architecture() -> Architecture:
    found = architecture_of(get_variant("lynx_full"), None)
    assert found is not None
    return found


FULL = full_architecture()

PLACEMENTS = {
    "one block streamed": Placement("balanced", streamed_blocks=1),
    "half the blocks streamed": Placement("balanced", streamed_blocks=2),
    "every block streamed": Placement("low", streamed_blocks=BLOCKS),
    "more blocks than there are": Placement("low", streamed_blocks=99),
    "others wait": Placement("resident", others_wait=True),
    "blocks leave": Placement("resident", blocks_leave_for_decode=True),
    "balanced": placement_of_tier("balanced", blocks=BLOCKS),
    "low": placement_of_tier("low", blocks=BLOCKS),
}


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    return ensure_weights(get_variant("tiny"), models_dir=cache, cache_dir=cache)


@pytest.fixture(scope="module")
def public_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    write_public_layout(models)
    return models


@pytest.fixture(scope="module")
def tiny(tiny_weights: Path) -> RenderEngine:
    return load(tiny_weights, "tiny")


def load(weights: Path, variant: str, precision: str = "float32", **more: Any) -> RenderEngine:
    return RenderEngine.load(
        get_variant(variant), weights_dir=weights, device="cpu", precision=precision, **more
    )


def latents_of(engine: RenderEngine, job: RenderJob) -> torch.Tensor:
    face = None
    if engine.spec.uses_subject:
        face = engine.embed_face(astronaut(), ASTRONAUT_LANDMARKS)
    return engine.sample(job, engine.branches(job, face))


@pytest.fixture(scope="module")
def resident_latents(tiny: RenderEngine) -> torch.Tensor:
    tiny.place(RESIDENT)
    return latents_of(tiny, JOB)


@pytest.mark.parametrize("name", PLACEMENTS)
def test_every_placement_gives_the_same_latents_bit_for_bit(
    tiny: RenderEngine, resident_latents: torch.Tensor, name: str
) -> None:
    tiny.place(PLACEMENTS[name])
    tiny.conditioning.free_caches()
    assert torch.equal(latents_of(tiny, JOB), resident_latents)


@pytest.mark.parametrize("variant", ["wan", "lynx_full", "lynx_lite"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_tier_gives_the_same_frames_from_the_public_layout(
    public_models: Path, tmp_path: Path, variant: str, precision: str
) -> None:
    engine = load(public_models, variant, precision, cache_dir=tmp_path)
    job = replace(make_small_job(variant), precision=precision)
    face = None
    if engine.spec.uses_subject:
        face = engine.embed_face(astronaut(), ASTRONAUT_LANDMARKS)
    rendered = {
        tier: engine.render(replace(job, memory=tier), face)
        for tier in ("auto", "low", "balanced", "resident")
    }
    frames = {tier: rendering.frames for tier, rendering in rendered.items()}
    assert {tier: r.conditions.memory_tier for tier, r in rendered.items()} == {
        "auto": "resident",
        "low": "low",
        "balanced": "balanced",
        "resident": "resident",
    }
    assert [r.conditions.streamed_blocks for r in rendered.values()] == [0, 3, 2, 0]
    for tier in ("low", "balanced", "resident"):
        np.testing.assert_array_equal(frames[tier], frames["auto"])


class Watch:
    """Writes down, each time a block computes, which blocks' matrices are on the device."""

    def __init__(self, engine: RenderEngine) -> None:
        self.seen: list[tuple[int, tuple[int, ...]]] = []
        blocks: Any = engine.denoiser.transformer.blocks

        def look(number: int) -> None:
            present = tuple(n for n, b in enumerate(blocks) if not b.ffn.net[2].weight.is_meta)
            self.seen.append((number, present))

        self.handles = [
            block.ffn.register_forward_pre_hook(lambda *_, n=n: look(n))
            for n, block in enumerate(blocks)
        ]

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


@pytest.fixture
def watch(tiny: RenderEngine) -> Iterator[Watch]:
    watching = Watch(tiny)
    yield watching
    watching.close()


def test_streamed_block_is_there_while_it_computes_and_the_others_of_them_wait(
    tiny: RenderEngine, watch: Watch
) -> None:
    tiny.place(Placement("balanced", streamed_blocks=2))
    latents_of(tiny, replace(JOB, steps=1))
    passes = watch.seen[-3 * BLOCKS :]
    assert passes == 3 * [(0, (0, 1)), (1, (0, 1)), (2, (0, 1, 2)), (3, (0, 1, 3))]


def test_next_block_is_fetched_while_one_computes(tiny: RenderEngine) -> None:
    tiny.place(placement_of_tier("low", blocks=BLOCKS))
    blocks: Any = tiny.denoiser.transformer.blocks
    streamed: Any = tiny._placer._blocks._stream
    fetched: list[tuple[int, set[int]]] = []
    handles = [
        block.ffn.register_forward_pre_hook(
            lambda *_, n=n: fetched.append((n, {p.block for p in streamed._stream._places}))
        )
        for n, block in enumerate(blocks)
    ]
    latents_of(tiny, replace(JOB, steps=1))
    for handle in handles:
        handle.remove()
    assert fetched[-BLOCKS:] == [(0, {0, 1}), (1, {1, 2}), (2, {2, 3}), (3, {3, 0})]


def test_block_that_failed_leaves_and_the_next_pass_is_right(
    tiny: RenderEngine, resident_latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.place(placement_of_tier("low", blocks=BLOCKS))
    block: Any = tiny.denoiser.transformer.blocks[1]
    with monkeypatch.context() as patched:
        patched.setattr(block.ffn, "forward", lambda _: torch.ones(2) @ torch.ones(3))
        with pytest.raises(RuntimeError):
            latents_of(tiny, JOB)
    assert block.ffn.net[2].weight.is_meta
    assert torch.equal(latents_of(tiny, JOB), resident_latents)


def waiting_parts(engine: RenderEngine) -> set[str]:
    vae: Any = engine._vae._vae
    assert engine.conditioning._subject is not None
    parts = {
        "blocks": engine.denoiser.transformer,
        "autoencoder": vae,
        "recogniser": engine.conditioning._subject.face_encoder,
        "resampler": engine.conditioning._subject.resampler,
    }
    return {name for name, part in parts.items() if any(p.is_meta for p in part.parameters())}


def test_what_a_placement_lets_wait_holds_no_memory_between_its_uses(tiny: RenderEngine) -> None:
    face = tiny.embed_face(astronaut(), ASTRONAUT_LANDMARKS)
    tiny.place(RESIDENT)
    assert waiting_parts(tiny) == set()
    tiny.place(Placement("resident", others_wait=True))
    others = {"autoencoder", "recogniser", "resampler"}
    assert waiting_parts(tiny) == others
    tiny.embed_face(astronaut()[:, ::-1], ASTRONAUT_LANDMARKS)
    tiny.conditioning.identity_tokens(face)
    tiny.decode(torch.randn((1, 16, 1, 8, 8), generator=torch.Generator().manual_seed(0)))
    assert waiting_parts(tiny) == others
    text: Any = tiny.conditioning._text
    tiny.conditioning.encode_text("Another prompt.")
    assert all(parameter.is_meta for parameter in text._encoder.parameters())


def test_transformer_is_gone_while_the_clip_is_decoded_and_back_for_the_next_row(
    tiny: RenderEngine,
) -> None:
    face = tiny.embed_face(astronaut(), ASTRONAUT_LANDMARKS)
    vae: Any = tiny._vae._vae
    seen: list[set[str]] = []
    handle = vae.decoder.register_forward_pre_hook(lambda *_: seen.append(waiting_parts(tiny)))
    first = tiny.render(replace(JOB, memory="balanced"), face)
    second = tiny.render(replace(JOB, memory="balanced"), face)
    tiny.render(JOB, face)
    handle.remove()
    chunks = 2  # latent frames, decoded one by one
    away = {"blocks", "recogniser", "resampler"}
    assert seen == 2 * chunks * [away] + chunks * [set()]
    assert "load" in second.stages_s
    np.testing.assert_array_equal(first.frames, second.frames)


def test_placement_that_stays_moves_nothing(
    tiny: RenderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    face = tiny.embed_face(astronaut(), ASTRONAUT_LANDMARKS)
    tiny.render(JOB, face)
    blocks = tiny._placer._blocks
    monkeypatch.setattr(blocks._residence, "_place", lambda *_: pytest.fail("a tensor moved"))
    monkeypatch.setattr(blocks._residence, "drop", lambda *_: pytest.fail("a tensor moved"))
    rendering = tiny.render(replace(JOB, seed=3), face)
    assert "load" not in rendering.stages_s


def test_denoiser_is_told_the_placement(tiny: RenderEngine) -> None:
    low = placement_of_tier("low", blocks=BLOCKS)
    tiny.place(low)
    denoiser: Any = tiny.denoiser
    assert denoiser.placement == low


def test_weights_of_a_job_that_was_never_placed_come_with_the_first_row(
    tiny_weights: Path, resident_latents: torch.Tensor
) -> None:
    engine = load(tiny_weights, "tiny", placement=None)
    assert waiting_parts(engine) == {"blocks", "autoencoder", "recogniser", "resampler"}
    face = engine.embed_face(astronaut(), ASTRONAUT_LANDMARKS)
    # It is there for the next photo, unless the placement in force has it wait.
    assert waiting_parts(engine) == {"blocks", "autoencoder", "resampler"}
    rendering = engine.render(JOB, face)
    assert list(rendering.stages_s) == ["load", "text", "subject", "denoise", "decode"]
    assert torch.equal(latents_of(engine, JOB), resident_latents)


def test_strict_job_is_never_decoded_in_tiles_whatever_its_placement_says(
    tiny: RenderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiled = replace(RESIDENT, vae_tiled=True)
    monkeypatch.setattr("lynx_engine.engine.place_job", lambda *_, **__: tiled)
    face = tiny.embed_face(astronaut(), ASTRONAUT_LANDMARKS)
    vae: Any = tiny._vae._vae
    flags: list[bool] = []
    handle = vae.decoder.register_forward_pre_hook(lambda *_: flags.append(vae.use_tiling))
    strict = tiny.render(replace(JOB, numerics="strict"), face)
    normal = tiny.render(JOB, face)
    handle.remove()
    assert (strict.conditions.vae_tiled, normal.conditions.vae_tiled) == (False, True)
    assert flags == [False, False, True, True]


def test_prompts_encoded_together_are_the_same_as_alone(tiny: RenderEngine) -> None:
    prompts = ["A person waves.", "", "一个人在海滩上跑步", "A person waves.", "x " * 700]
    tiny.conditioning.free_caches()
    counted = tiny.counters.text_encodes
    together = tiny.conditioning.encode_texts(prompts)
    assert tiny.counters.text_encodes - counted == 4
    tiny.conditioning.free_caches()
    assert all(
        torch.equal(tokens, tiny.conditioning.encode_text(prompt))
        for tokens, prompt in zip(together, prompts, strict=True)
    )


def test_texts_of_a_job_share_one_pass_of_the_weights(tiny: RenderEngine) -> None:
    text: Any = tiny.conditioning._text
    tiny.conditioning.free_caches()
    passes: list[int] = []
    original = text.encode
    text.encode = lambda prompts: passes.append(len(prompts)) or original(prompts)
    try:
        tiny.render(JOB, tiny.embed_face(astronaut(), ASTRONAUT_LANDMARKS))
    finally:
        text.encode = original
    assert passes == [3]  # prompt, negative prompt and reference prompt


def test_weights_that_are_not_numbers_are_named_before_anything_is_rendered(
    tmp_path: Path,
) -> None:
    from safetensors.torch import save_file

    write_public_layout(tmp_path)
    base = tmp_path / get_variant("wan").base
    path = base / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["decoder.conv_in.weight"][0, 0] = float("nan")
    save_file(tensors, path)
    with pytest.raises(RowError, match=r"not finite, in decoder\.conv_in\.weight"):
        load(tmp_path, "wan")


def test_tiers_stand_for_less_and_less_on_the_device() -> None:
    resident, balanced, low = (
        placement_of_tier(tier, blocks=40) for tier in ("resident", "balanced", "low")
    )
    assert resident == RESIDENT
    assert (balanced.streamed_blocks, low.streamed_blocks) == (20, 40)
    assert balanced.others_wait
    assert balanced.blocks_leave_for_decode
    assert not low.keeps_text_kv
    assert not low.shares_first_block
    with pytest.raises(ValueError, match="huge"):
        placement_of_tier("huge", blocks=40)


def test_in_host_memory_auto_is_resident() -> None:
    def on_host(job: RenderJob) -> Placement:
        return place_job(job, blocks=40, architecture=FULL, spendable_bytes=None)

    assert on_host(JOB) == RESIDENT
    low = replace(JOB, memory="low")
    assert on_host(low) == placement_of_tier("low", blocks=40)


@pytest.mark.parametrize(
    ("memory", "free_gib", "tier"),
    [
        ("auto", 80, "resident"),
        ("auto", 23, "balanced"),
        ("auto", 15, "balanced"),
        ("auto", 8, "low"),
        ("balanced", 80, "balanced"),
        ("low", 80, "low"),
    ],
)
def test_on_a_card_the_estimate_chooses_the_placement(
    memory: str, free_gib: int, tier: str
) -> None:
    job = replace(make_job("lynx_full"), memory=memory)
    placement = place_job(job, blocks=40, architecture=FULL, spendable_bytes=free_gib << 30)
    assert placement.tier == tier
    estimate = estimate_memory(
        FULL, placement, frames=job.frames, size=job.size, precision=job.precision
    )
    assert estimate.needed_bytes <= free_gib << 30


def test_what_fits_by_no_estimate_is_tried_in_the_lowest_way_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = make_job("lynx_full")
    placement = place_job(job, blocks=40, architecture=FULL, spendable_bytes=2 << 30)
    assert placement == placement_of_tier("low", blocks=40)
    assert "2.0 GiB is free" in caplog.text
    asked = replace(job, memory="resident")
    assert place_job(asked, blocks=40, architecture=FULL, spendable_bytes=2 << 30) == RESIDENT


def test_ladder_ends_where_the_lowest_tier_stands() -> None:
    placement = RESIDENT
    streamed: list[tuple[str, int]] = []
    for rung in (*SAMPLING_RUNGS, *DECODING_RUNGS):
        placement = step_down(placement, rung, blocks=40)
        streamed.append((placement.tier, placement.streamed_blocks))
    assert placement == placement_of_tier("low", blocks=40)
    assert streamed[:6] == [
        ("resident", 0),
        ("resident", 0),
        ("balanced", 10),
        ("balanced", 20),
        ("low", 40),
        ("low", 40),
    ]
    assert TILED_DECODING_RUNGS[:-1] == DECODING_RUNGS
    for rung in (*SAMPLING_RUNGS, *DECODING_RUNGS):
        assert step_down(placement, rung, blocks=40) == placement
