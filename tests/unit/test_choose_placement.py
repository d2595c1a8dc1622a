"""Which placement is chosen for how much memory."""

from __future__ import annotations

import pytest

from lynx_engine.capacity.architecture import Architecture, TransformerSize
from lynx_engine.capacity.choose import DoesNotFit, choose, choose_on_cpu, choose_placement
from lynx_engine.capacity.memory import GIB, estimate_memory
from lynx_engine.capacity.placement import RESIDENT, Placement
from lynx_engine.shapes import FrameSize
from lynx_engine.variants import get_variant
from lynx_engine.variants.dimensions import architecture_of
from tests.support.pace import Stopwatch

SIZE = FrameSize(832, 480)


def full() -> Architecture:
    architecture = architecture_of(get_variant("lynx_full"), None)
    assert architecture is not None
    return architecture


def placed(free_gib: float, asked: str = "auto", numerics: str = "normal") -> Placement:
    return choose_placement(
        asked,
        full(),
        frames=81,
        size=SIZE,
        precision="bfloat16",
        numerics=numerics,
        free_bytes=round(free_gib * GIB),
    )


def test_a_large_device_keeps_everything() -> None:
    assert placed(140) == RESIDENT


def test_blocks_leave_for_the_decode_before_anything_is_slower() -> None:
    placement = placed(34)
    assert placement.tier == "resident"
    assert placement.blocks_leave_for_decode
    assert placement.keeps_text_kv
    assert placement.shares_first_block


def test_as_few_blocks_are_streamed_as_will_fit() -> None:
    placement = placed(22.5)
    assert placement.tier == "balanced"
    one_less = Placement(
        "balanced",
        streamed_blocks=placement.streamed_blocks - 1,
        others_wait=True,
        blocks_leave_for_decode=True,
    )
    estimate = estimate_memory(full(), one_less, frames=81, size=SIZE, precision="bfloat16")
    assert estimate.needed_bytes > 22.5 * GIB


def test_less_memory_never_streams_fewer_blocks() -> None:
    streamed = [placed(gib).streamed_blocks for gib in (33, 28, 24, 20, 16, 12, 9, 7.6)]
    assert streamed == sorted(streamed)
    assert (streamed[0], streamed[-1]) == (0, 40)


def test_a_clip_is_decoded_whole_wherever_it_fits_alone() -> None:
    assert not placed(9).vae_tiled
    assert placed(7.6).vae_tiled


def test_strict_numerics_never_decode_in_tiles() -> None:
    with pytest.raises(DoesNotFit, match=r"decode; numerics: normal may decode in tiles"):
        placed(7.6, numerics="strict")


@pytest.mark.parametrize("asked", ["resident", "balanced", "low"])
def test_a_tier_asked_for_is_the_tier_chosen(asked: str) -> None:
    assert placed(140, asked).tier == asked


def test_a_tier_that_does_not_fit_is_refused_with_its_numbers() -> None:
    with pytest.raises(
        DoesNotFit, match=r"needs 3\d\.\d GiB at its smallest, 16\.0 GiB is free\. .*memory: auto"
    ):
        placed(16, "resident")


def test_a_device_too_small_for_anything_is_told_what_helps() -> None:
    with pytest.raises(DoesNotFit, match="fewer frames, a smaller size or a larger device"):
        placed(4)


def test_unknown_tier_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no memory tier"):
        placed(140, "lowvram")


def test_a_model_of_few_blocks_has_every_tier() -> None:
    tiny = Architecture(
        TransformerSize(2, 2, 48, 200, 64, 32), full().text, full().vae, None, branches=2
    )
    for asked in ("resident", "balanced", "low"):
        choice = choose(
            asked,
            tiny,
            frames=9,
            size=FrameSize(64, 64),
            precision="float32",
            numerics="normal",
            free_bytes=64 * GIB,
        )
        assert choice.placement.tier == asked


def test_a_cpu_has_one_placement_or_none() -> None:
    facts = {"frames": 81, "size": SIZE, "precision": "bfloat16"}
    assert choose_on_cpu(full(), free_bytes=128 * GIB, **facts).placement == RESIDENT  # type: ignore[arg-type]
    with pytest.raises(DoesNotFit, match="machine with more memory"):
        choose_on_cpu(full(), free_bytes=16 * GIB, **facts)  # type: ignore[arg-type]


def test_choosing_takes_no_time_that_counts() -> None:
    watch = Stopwatch()
    for _ in range(20):
        placed(7.6)
    # Hundreds of rows are chosen for at each plan; about 2 ms each at the bottom of the ladder.
    assert watch.idle_s() / 20 < 0.1
