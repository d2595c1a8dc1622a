"""Compiles the one block that a transformer repeats, and falls back to eager if that fails.

It knows blocks and graphs, no branch, step or subject.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from importlib.util import find_spec
from itertools import count
from types import FunctionType

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock

from lynx_engine.models.attention import IdentityAttention, ReferenceAttention
from lynx_engine.models.device import is_memory_error

logger = logging.getLogger(__name__)

BlockForward = Callable[..., torch.Tensor]
_KEPT_GRAPHS = 8
_NUMBERS = count()
_LONGEST_REASON = 300


def wants_compile(setting: str, device: torch.device) -> bool:
    """Return whether blocks are to be compiled: `auto` means on CUDA, where Triton is."""
    if setting == "auto":
        return device.type == "cuda" and find_spec("triton") is not None
    return setting == "on"


class BlockCompiler:
    """Runs the blocks of one transformer compiled, one graph a kind of pass.

    The block's forward is compiled, not the block: hooks of offload and caches stay outside of the
    graph, where they were. A graph is the same for every block, branch and step, because all that
    differs reaches it as a tensor.

    Attributes:
        broken: Whether compiling failed; the blocks run eager from then on.
    """

    def __init__(self, blocks: Sequence[WanTransformerBlock]) -> None:
        """Take over the forward of `blocks`; they run eager until `start`."""
        self.broken = False
        self._forward: BlockForward | None = None
        self._forwards: OrderedDict[Hashable, BlockForward] = OrderedDict()
        self._proven: set[BlockForward] = set()
        for block in blocks:
            block.forward = _switched(weakref.ref(block), weakref.ref(self))

    def start(self, kind: Hashable) -> None:
        """Run the blocks compiled until `stop`.

        Args:
            kind: All that a graph depends on, such as shapes and which adapters there are. Each
                kind is compiled once and kept; the one longest unused goes first.
        """
        if self.broken:
            return
        if kind not in self._forwards:
            self._forwards[kind] = _compiled()
            while len(self._forwards) > _KEPT_GRAPHS:
                _, dropped = self._forwards.popitem(last=False)
                self._proven.discard(dropped)
        self._forwards.move_to_end(kind)
        self._forward = self._forwards[kind]

    def stop(self) -> None:
        """Run the blocks eager."""
        self._forward = None

    def run(self, block: WanTransformerBlock, *inputs: torch.Tensor) -> torch.Tensor:
        """Run one block, compiled if that is wanted and this block can be."""
        forward = self._forward
        cross, first = block.attn2.processor, block.attn1.processor
        shares = isinstance(first, ReferenceAttention) and first.shared is not None
        if forward is None or shares:
            # A block that takes over what another branch made has a control flow of its own.
            return WanTransformerBlock.forward(block, *inputs)
        if isinstance(cross, IdentityAttention) and cross.keeps_text:
            # Before the graph: within it, known and unknown text would be two graphs.
            cross.read_text(block.attn2, inputs[1])
        if forward in self._proven:
            return forward(block, *inputs)
        try:
            output = forward(block, *inputs)
        except Exception as error:  # the compiler has many ways to fail, and no type of its own
            if is_memory_error(error):
                raise
            # What failed for another reason fails again just below, eager.
            logger.warning(
                "the transformer runs without torch.compile, which failed: %s",
                " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON],
            )
            self.broken = True
            self.stop()
            return WanTransformerBlock.forward(block, *inputs)
        self._proven.add(forward)
        return output


def _switched(
    block_of: Callable[[], WanTransformerBlock | None],
    compiler_of: Callable[[], BlockCompiler | None],
) -> BlockForward:
    """Return a block's forward that asks the compiler; it keeps neither alive."""

    def forward(
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        rotary_emb: torch.Tensor,
    ) -> torch.Tensor:
        block, compiler = block_of(), compiler_of()
        assert block is not None  # it is running
        inputs = (hidden_states, encoder_hidden_states, temb, rotary_emb)
        if compiler is None:
            return WanTransformerBlock.forward(block, *inputs)
        return compiler.run(block, *inputs)

    return forward


def _compiled() -> BlockForward:
    """Return the stock forward, compiled, with a code object of its own.

    torch limits and searches recompilations by code object, over all engines of a process: shared,
    the ninth clip size of a campaign would run eager for the rest of the night.
    """
    stock = WanTransformerBlock.forward
    code = stock.__code__.replace(co_name=f"block_forward_{next(_NUMBERS)}")
    own = FunctionType(code, stock.__globals__, code.co_name, stock.__defaults__, stock.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False)
