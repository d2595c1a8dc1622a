"""A stream of blocks when something goes wrong: no copy outlives its turn, no memory its stream."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from lynx_engine.models.streaming import Block, BlockStream

CPU = torch.device("cpu")
WIDE = 60_000_000


class Layer(nn.Module):
    """A block of two matrices, which wait."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("small", "wide"):
            self.register_parameter(name, nn.Parameter(torch.empty(1, device="meta")))


def block(number: float, *, small: int = 1) -> Block:
    return {"small": torch.full((small,), number), "wide": torch.full((WIDE,), number)}


def test_a_copy_that_failed_lets_the_others_of_its_block_finish_first() -> None:
    # Of another size than the first block's, so that copying it fails at once.
    stream = BlockStream([block(1), block(2, small=2)], device=CPU, dtype=torch.float32)
    layer = Layer()
    try:
        with stream.visiting(0, layer):
            pass
        place = next(place for place in stream._places if place.block == 1)
        with pytest.raises(RuntimeError, match="shape"):
            stream.enter(1, layer)
        # Whatever still ran would write into the block that takes this place next.
        assert place.tensors["wide"][-1] == 2
        assert place.block == -1
        with stream.visiting(0, layer):
            assert layer.get_parameter("wide")[-1] == 1
    finally:
        stream.close()


def test_a_closed_stream_holds_no_device_memory_whoever_still_knows_it() -> None:
    stream = BlockStream([block(1), block(2)], device=CPU, dtype=torch.float32)
    layer = Layer()
    for number in (0, 1):
        with stream.visiting(number, layer):
            pass
    held = [weakref.ref(t) for place in stream._places for t in place.tensors.values()]
    stream.close()
    assert [reference() for reference in held] == [None] * len(held)
