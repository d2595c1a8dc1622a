"""Byte accounting against real memory, and the estimator against byte accounting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lynx_engine.capacity.architecture import (
    AdapterSize,
    Architecture,
    TextSize,
    TransformerSize,
    VaeSize,
)
from lynx_engine.capacity.choose import choose
from lynx_engine.capacity.extras import Extras
from lynx_engine.capacity.memory import GIB, estimate_host, estimate_memory
from lynx_engine.capacity.placement import Placement
from lynx_engine.jobs import Lora
from lynx_engine.models.lora_file import added_numbers, inspect_lora
from lynx_engine.shapes import FrameSize
from lynx_engine.speed import recorded_speed
from lynx_engine.variants import all_variants, get_variant
from lynx_engine.variants.dimensions import architecture_of
from lynx_engine.variants.spec import VariantSpec
from tests.support.accounted import META, account
from tests.support.byte_accounting import ByteAccounting, Peak

OVER, UNDER = 1.06, 0.98
"""An estimate lies between these multiples of the count: over by 6 %, under by 2 % at most."""

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")

WAITING = Placement("balanced", others_wait=True, blocks_leave_for_decode=True)
LOW = replace(WAITING, tier="low", keeps_text_kv=False, shares_first_block=False)

CASES = {
    "full resident": ("lynx_full", 33, "832x480", "bfloat16", Placement("resident")),
    "full balanced": ("lynx_full", 81, "480x832", "bfloat16", replace(WAITING, streamed_blocks=4)),
    "full in float32": ("lynx_full", 17, "640x368", "float32", Placement("resident")),
    "lite low": ("lynx_lite", 121, "832x480", "bfloat16", replace(LOW, streamed_blocks=6)),
    "lite low in tiles": (
        "lynx_lite",
        9,
        "640x368",
        "float16",
        replace(LOW, streamed_blocks=6, vae_tiled=True),
    ),
    "base, small": ("wan", 9, "256x256", "bfloat16", Placement("resident")),
    "base in float32": ("wan", 49, "832x480", "float32", replace(LOW, streamed_blocks=6)),
}

SMALL = Architecture(
    TransformerSize(3, 2, 48, 200, 64, 32),
    TextSize(2, 64, 64, 4, 96, 200),
    VaeSize(8, residuals=1),
    AdapterSize(1, 96, biased=True, reference=True, resampler_width=64, recogniser=1000),
    branches=3,
)


def with_blocks(architecture: Architecture, blocks: int) -> Architecture:
    return replace(architecture, transformer=replace(architecture.transformer, blocks=blocks))


def published(variant: str) -> Architecture:
    architecture = architecture_of(get_variant(variant), None)
    assert architecture is not None
    return architecture


def without_timesteps(peak: Peak) -> tuple[dict[str, int], dict[str, int]]:
    """What is held and alive but for three timesteps, which travel to a device and not to a CPU."""
    return peak.held, {k: n for k, n in peak.alive.items() if not k.endswith(" int64 [3]")}


@pytest.mark.parametrize("case", CASES)
def test_estimate_agrees_with_the_count_of_real_networks_at_full_width(case: str) -> None:
    variant, frames, size, precision, placement = CASES[case]
    # Six blocks of true width: what one block keeps alive, and every sum over blocks.
    architecture = with_blocks(published(variant), 6)
    shape = {"frames": frames, "size": FrameSize.parse(size), "precision": precision}
    counted = account(get_variant(variant), architecture, placement=placement, **shape)  # type: ignore[arg-type]
    estimate = estimate_memory(architecture, placement, **shape)  # type: ignore[arg-type]
    for phase, peak in counted.items():
        estimated = sum(estimate.phases[phase].values())
        assert UNDER <= estimated / peak.bytes <= OVER, (phase, estimated, peak)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("tiled", [False, True], ids=["whole", "tiles"])
def test_count_on_meta_is_the_count_of_real_tensors_byte_for_byte(
    precision: str, tiled: bool
) -> None:
    torch.set_num_threads(1)
    shape = {"frames": 9, "size": FrameSize(320, 64), "precision": precision}
    spec, placement = get_variant("lynx_full"), Placement("resident", vae_tiled=tiled)
    on_meta = account(spec, SMALL, placement=placement, device=META, **shape)  # type: ignore[arg-type]
    on_cpu = account(spec, SMALL, placement=placement, device=torch.device("cpu"), **shape)  # type: ignore[arg-type]
    for phase, peak in on_meta.items():
        assert without_timesteps(peak) == without_timesteps(on_cpu[phase]), phase


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_count_agrees_with_the_allocator_of_a_gpu() -> None:
    spec, device = get_variant("lynx_full"), torch.device("cuda:0")
    architecture = with_blocks(published("lynx_full"), 2)
    shape = {"frames": 33, "size": FrameSize(832, 480), "precision": "bfloat16"}
    placement = Placement("resident")
    counted = account(spec, architecture, placement=placement, **shape)["denoise"]  # type: ignore[arg-type]
    torch.cuda.reset_peak_memory_stats(device)
    account(spec, architecture, placement=placement, device=device, **shape)  # type: ignore[arg-type]
    measured = torch.cuda.max_memory_allocated(device)
    assert counted.bytes * 0.97 <= measured <= counted.bytes * 1.10


def write_lora(path: Path, architecture: Architecture, *, rank: int) -> Lora:
    """Save a LoRA of zeros over every matrix of the first blocks' kind."""
    t = architecture.transformer
    sizes = {
        **{f"attn{n}.{part}": (t.width, t.width) for n in (1, 2) for part in PROJECTIONS},
        "ffn.net.0.proj": (t.ffn_width, t.width),
        "ffn.net.2": (t.width, t.ffn_width),
    }
    tensors: dict[str, torch.Tensor] = {}
    for number in range(t.blocks):
        for layer, (out, into) in sizes.items():
            name = f"transformer.blocks.{number}.{layer}"
            tensors[f"{name}.lora_A.weight"] = torch.zeros(rank, into, dtype=torch.bfloat16)
            tensors[f"{name}.lora_B.weight"] = torch.zeros(out, rank, dtype=torch.bfloat16)
    save_file(tensors, path)
    header = inspect_lora(path)
    return Lora(header.digest, 1.0, path, added_numbers(header))


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_loras_are_estimated_as_they_are_counted(tmp_path: Path, precision: str) -> None:
    architecture = with_blocks(published("lynx_full"), 3)
    lora = write_lora(tmp_path / "a.safetensors", architecture, rank=16)
    assert lora.numbers == 3 * 16 * (8 * 2 * 5120 + 2 * (5120 + 13824))
    shape = {"frames": 33, "size": FrameSize(832, 480), "precision": precision}
    placement = replace(WAITING, streamed_blocks=3)
    spec = get_variant("lynx_full")
    for speed in ("exact", "distilled"):
        counted = account(
            spec, architecture, placement=placement, speed=speed, loras=[lora], **shape
        )["denoise"]  # type: ignore[arg-type]
        extras = Extras(speed, lora.numbers)
        estimate = estimate_memory(architecture, placement, extras=extras, **shape)  # type: ignore[arg-type]
        items = estimate.phases["denoise"]
        assert counted.held["LoRAs"] == items["LoRAs"]
        assert counted.held["adapter K/V"] == items["adapter K/V"]
        assert counted.held["text tokens"] == items["text tokens"]
        assert UNDER <= sum(items.values()) / counted.bytes <= OVER, (speed, items, counted)


def test_a_step_cache_keeps_what_was_estimated_for_it() -> None:
    torch.set_num_threads(1)
    spec, device = get_variant("lynx_full"), torch.device("cpu")
    shape = {"frames": 9, "size": FrameSize(320, 64), "precision": "float32"}
    placement, cached = Placement("resident"), recorded_speed("cache", cache_threshold=0.05)
    without, within = (
        account(spec, SMALL, placement=placement, speed=speed, device=device, **shape)["denoise"]  # type: ignore[arg-type]
        for speed in ("exact", cached)
    )
    phases = estimate_memory(SMALL, placement, extras=Extras(cached), **shape).phases  # type: ignore[arg-type]
    kept = phases["denoise"]["step cache"]
    tokens = SMALL.transformer.tokens(9, 64, 320)
    assert kept == 3 * 3 * tokens * 96 * 4
    assert within.bytes - without.bytes == pytest.approx(kept, rel=0.15)


@pytest.mark.parametrize("spec", all_variants().values(), ids=lambda spec: spec.name)
def test_estimates_count_the_branches_that_run(spec: VariantSpec) -> None:
    architecture = architecture_of(spec, None)
    if architecture is None:
        assert not spec.base
        return
    for word in ("exact", "cache", "distilled"):
        speed = recorded_speed(word, cache_threshold=spec.cache_threshold)
        assert Extras(speed).branches(architecture) == len(spec.branches_at(speed))


def test_bytes_are_counted_while_a_tensor_lives_and_no_longer() -> None:
    with torch.inference_mode(), ByteAccounting() as accounting:
        first = torch.empty(1000, dtype=torch.float32)
        view = first.view(10, 100)
        assert accounting.live_bytes() == 4000
        del first
        assert accounting.live_bytes() == 4000
        del view
        assert accounting.live_bytes() == 0
        second = torch.zeros(10) + 1
        assert accounting.live_bytes() == 40
    assert accounting.peak.bytes == 4000
    assert accounting.peak.made_bytes == 4000
    assert second.numel() == 10


def test_held_tensors_are_itemised_and_counted_once() -> None:
    weight = torch.empty(100)
    accounting = ByteAccounting()
    assert accounting.hold("weights", [weight, weight.view(10, 10)]) == 400
    accounting.leave_out([other := torch.empty(7)])
    with torch.inference_mode(), accounting:
        made = weight.view(4, 25) * 2
        assert other.view(7).numel() == 7
    assert accounting.peak.held == {"weights": 400}
    assert accounting.peak.alive == {"aten.mul.Tensor float32 [4, 25]": 400}
    assert made.numel() == 100


def test_each_item_of_a_placement_takes_its_bytes() -> None:
    full = published("lynx_full")
    shape = {"frames": 81, "size": FrameSize(832, 480), "precision": "bfloat16"}
    resident = estimate_memory(full, Placement("resident"), **shape).phases["denoise"]  # type: ignore[arg-type]
    assert resident["resident blocks"] / 1e9 == pytest.approx(28.12, abs=0.01)
    # 12.6 GB less than with the adapters' weights; keys and values are 0.45 GB of it.
    assert resident["adapter K/V"] == 2 * 2 * 40 * (16 + 256) * 5120 * 2
    assert resident["text K/V"] == 2 * 2 * 40 * 512 * 5120 * 2
    assert resident["shared first block"] == 3 * 32760 * 5120 * 2
    low = estimate_memory(full, replace(LOW, streamed_blocks=40), **shape)  # type: ignore[arg-type]
    assert low.phases["denoise"]["resident blocks"] == 0
    assert low.phases["denoise"]["visiting blocks"] == 2 * resident["resident blocks"] // 40
    assert "text K/V" not in low.phases["denoise"]
    assert "resident blocks" not in low.phases["decode"]


def test_a_cpu_holds_every_network_at_once() -> None:
    full = published("lynx_full")
    estimate = estimate_host(full, frames=81, size=FrameSize(832, 480), precision="bfloat16")
    # 37.0 GB of transformer and adapters, and the text encoder's 11.4 GB.
    assert estimate.peak_bytes / 1e9 > 37.0 + 11.3


TIERS = (
    # GiB, tier asked for, variant: P10 of the performance figures.
    (32.0, "resident", "lynx_full"),
    (22.5, "auto", "lynx_full"),
    (14.5, "auto", "lynx_full"),
    (7.6, "auto", "lynx_full"),
    (22.5, "auto", "lynx_lite"),
    (14.5, "auto", "lynx_lite"),
    (7.6, "auto", "lynx_lite"),
)


@pytest.mark.parametrize(
    ("ceiling_gib", "asked", "variant"), TIERS, ids=[f"{v} in {g}" for g, _, v in TIERS]
)
def test_14b_stays_below_the_ceiling_of_its_card(
    ceiling_gib: float, asked: str, variant: str
) -> None:
    spec, architecture = get_variant(variant), published(variant)
    defaults = spec.defaults
    shape = {"frames": defaults.frames, "size": defaults.size, "precision": "bfloat16"}
    chosen = choose(
        asked,
        architecture,
        numerics="normal",
        free_bytes=round(ceiling_gib * GIB),
        **shape,  # type: ignore[arg-type]
    )
    # Steps and decode; the tiled decode at full length takes the meta device half a minute, its
    # formula is compared above.
    whole = replace(chosen.placement, vae_tiled=False)
    counted = account(spec, architecture, placement=whole, **shape)  # type: ignore[arg-type]
    phases = [counted["text"], counted["denoise"]]
    phases += [] if chosen.placement.vae_tiled else [counted["decode"]]
    assert max(peak.bytes for peak in phases) <= ceiling_gib * GIB
    assert sum(chosen.estimate.phases["decode"].values()) <= ceiling_gib * GIB


def test_lite_stays_resident_below_32_gib_with_nothing_kept_over_steps() -> None:
    spec, architecture = get_variant("lynx_lite"), published("lynx_lite")
    smallest = replace(LOW, tier="resident")
    counted = account(
        spec,
        architecture,
        frames=121,
        size=FrameSize(832, 480),
        precision="bfloat16",
        placement=smallest,
    )
    assert max(peak.bytes for peak in counted.values()) <= 32 * GIB
