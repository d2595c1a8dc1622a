"""Where the transformer's tensors lie: which blocks stay on the device and which are streamed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn

from lynx_engine.models.components import diffusers_dtypes
from lynx_engine.models.copies import BlockCopies
from lynx_engine.models.residence import Residence
from lynx_engine.models.streaming import Block, BlockStream, StreamedModules
from lynx_engine.models.tensor_files import SafetensorsSource


class TransformerResidence:
    """Places the tensors of one transformer as asked.

    Of a block that is streamed only the matrices wait. Norms, biases and modulations, a thousandth
    of its bytes, stay: the adapters borrow the norms between passes.
    """

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        source: SafetensorsSource,
        *,
        device: torch.device,
        dtype: torch.dtype,
        cache_dir: Path | None,
    ) -> None:
        """Let every tensor wait in its file.

        Args:
            transformer: Built on the meta device.
            source: Its tensors.
            device: Where it computes.
            dtype: Type of the pass.
            cache_dir: Where copies of streamed blocks may lie; None makes none.
        """
        self._blocks: list[nn.Module] = list(transformer.blocks)
        self._source = source
        self._device = device
        self._dtype = dtype
        self._residence = Residence(
            transformer, source, device=device, dtypes=diffusers_dtypes(transformer, dtype)
        )
        self._matrices = [self._matrices_of(number) for number in range(len(self._blocks))]
        self._stream: StreamedModules | None = None
        self._streamed = -1
        self._copies: BlockCopies | None = None
        if cache_dir is not None:
            files = sorted(set(source.files.values()))
            self._copies = BlockCopies(cache_dir, files, dtype)

    def is_placed(self, streamed: int) -> bool:
        """Whether exactly the last `streamed` blocks are streamed and the others there."""
        return self._streamed == min(streamed, len(self._blocks))

    def place(self, streamed: int, *, leaves: bool = False) -> None:
        """Have all but the matrices of the last `streamed` blocks on the device.

        Nothing is done where they lie so already.

        Args:
            streamed: Blocks that visit the device while they compute, counted from the last one.
            leaves: The others will leave and come back row by row, so that copies pay for them too.

        Raises:
            RowError: WEIGHTS, if a file is gone, damaged or holds numbers that are not finite.
        """
        if self.is_placed(streamed):
            return
        streamed = min(streamed, len(self._blocks))
        self._close_stream()
        staying = len(self._blocks) - streamed
        waiting = {name for names in self._matrices[staying:] for name in names.values()}
        present = self._source.shapes.keys() - waiting
        self._residence.let_go(present)
        if leaves:
            for number in range(staying):
                self._bring_block(number)
        self._residence.keep(present)
        if streamed:
            blocks = [self._block(number) for number in range(staying, len(self._blocks))]
            stream = BlockStream(blocks, device=self._device, dtype=self._dtype)
            self._stream = StreamedModules(self._blocks[staying:], stream)
        self._streamed = streamed

    def _bring_block(self, number: int) -> None:
        names = self._matrices[number]
        if self._residence.missing(names.values()):
            numbers = self._block(number)
            self._residence.bring({names[leaf]: numbers[leaf] for leaf in names})

    def leave(self) -> None:
        """Let every tensor wait; `place` brings them back."""
        self._close_stream()
        self._residence.leave()

    def _close_stream(self) -> None:
        self._streamed = -1
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _matrices_of(self, number: int) -> dict[str, str]:
        """Return name within the block -> name in the transformer."""
        prefix = f"blocks.{number}."
        return {
            name.removeprefix(prefix): name
            for name, shape in self._source.shapes.items()
            if name.startswith(prefix) and len(shape) == 2
        }

    def _block(self, number: int) -> Block:
        """Return a block's matrices as views of mapped files, in the type of the pass if it can."""
        names = self._matrices[number]
        read: Mapping[str, torch.Tensor] = dict(self._source.read(names.values()))
        block = {leaf: read[name] for leaf, name in names.items()}
        if self._copies is None or all(t.dtype is self._dtype for t in block.values()):
            return block
        return self._copies.open(number, block) or block
