"""Blocks that wait in host memory and visit the device one after another.

diffusers' group offloading was looked at first. It copies each group into host memory of the
process instead of reading mapped files, takes device memory anew for each visit, cannot cast on
the way, makes the host wait for its stream at each block, and replaces `forward`, which the
compiled blocks and the step caches replace too. Here two places on the device are filled in turn,
and nothing but events orders copies and kernels.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from lynx_engine.models.residence import put

PLACES = 2
"""Blocks on the device at a time: the one that computes and the one that comes next."""

# One thread copies some 8 GB/s from the page cache, a PCIe slot takes 25 to 50.
_COPY_THREADS = 4

Block = Mapping[str, torch.Tensor]
"""Name within the block -> its numbers on the CPU, in any type; views of mapped files."""


class _Place:
    """Device memory for one block, with pinned memory of the same size in front of it."""

    def __init__(self, like: Block, dtype: torch.dtype, device: torch.device) -> None:
        with torch.inference_mode(False):
            self.tensors = {
                name: nn.Parameter(
                    torch.empty(source.shape, dtype=dtype, device=device), requires_grad=False
                )
                for name, source in like.items()
            }
        self.pinned: dict[str, torch.Tensor] = {}
        self.arrived: torch.cuda.Event | None = None
        self.used: torch.cuda.Event | None = None
        if device.type == "cuda":
            with torch.inference_mode(False):
                self.pinned = {
                    name: torch.empty(source.shape, dtype=dtype, pin_memory=True)
                    for name, source in like.items()
                }
            self.arrived, self.used = torch.cuda.Event(), torch.cuda.Event()
        self.pending: list[Future[None]] = []
        self.block = -1


class BlockStream:
    """Lets the blocks of a network visit the device, the next one fetched meanwhile.

    The blocks are alike: the same names, in the same shapes. Their order is a ring, as a pass over
    the blocks follows another.
    """

    def __init__(
        self, blocks: Sequence[Block], *, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Take device memory for two blocks.

        Args:
            blocks: At least one, in the order they compute.
            device: Where they compute.
            dtype: Type they compute in; a block of another type is cast on its way.
        """
        self._blocks = blocks
        with torch.inference_mode(False):
            self._waiting = {
                name: nn.Parameter(
                    torch.empty(source.shape, dtype=dtype, device="meta"), requires_grad=False
                )
                for name, source in blocks[0].items()
            }
        self._places = [_Place(blocks[0], dtype, device) for _ in range(PLACES)]
        self._computing = self._places[0]
        self._copies: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)
            # The memory of the two places may be what kernels still queued are reading.
            self._copies.wait_stream(torch.cuda.current_stream(device))
        threads = min(_COPY_THREADS, os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="lynx-blocks")

    @contextmanager
    def visiting(self, number: int, module: nn.Module) -> Generator[None]:
        """Have block `number` on the device, as the tensors of `module`, inside the block."""
        self.enter(number, module)
        try:
            yield
        finally:
            self.leave(module)

    def enter(self, number: int, module: nn.Module) -> None:
        """Put the numbers of a block into `module`, and begin to fetch the block after it."""
        place = next((p for p in self._places if p.block == number), None)
        if place is None:
            # The first block of all, or one out of turn, as after a pass that failed.
            place = self._other_than(self._computing)
            self._fetch(number, place)
        self._await(place)
        if self._copies is not None and place.arrived is not None:
            torch.cuda.current_stream(self._copies.device).wait_event(place.arrived)
        for name, tensor in place.tensors.items():
            put(module, name, tensor)
        self._computing = place
        following = (number + 1) % len(self._blocks)
        if following != number:
            self._fetch(following, self._other_than(place))

    def leave(self, module: nn.Module) -> None:
        """Take the numbers out of `module`; their place is free once its kernels have run."""
        for name, tensor in self._waiting.items():
            put(module, name, tensor)
        if self._copies is not None and self._computing.used is not None:
            self._computing.used.record(torch.cuda.current_stream(self._copies.device))

    def close(self) -> None:
        """Give the device memory back."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._copies is not None:
            self._copies.synchronize()
        for place in self._places:
            place.tensors, place.pinned = {}, {}

    def _other_than(self, place: _Place) -> _Place:
        return next(p for p in self._places if p is not place)

    def _fetch(self, number: int, place: _Place) -> None:
        if place.block == number:
            return
        self._await(place)
        place.block = number
        if self._copies is not None and place.used is not None:
            self._copies.wait_event(place.used)
        source = self._blocks[number]
        place.pending = [
            self._threads.submit(self._copy, place, name, source[name]) for name in place.tensors
        ]

    def _await(self, place: _Place) -> None:
        """Wait until the copies to a place are begun; on a CPU, until they are done."""
        if not place.pending:
            return
        # All of them, also when one fails: another that still runs would write into the next block.
        wait(place.pending)
        if place.arrived is not None:
            place.arrived.record(self._copies)
        try:
            for copy in place.pending:
                copy.result()
        except BaseException:
            place.block = -1
            raise
        finally:
            place.pending = []

    def _copy(self, place: _Place, name: str, source: torch.Tensor) -> None:
        with torch.no_grad():
            if self._copies is None or place.arrived is None:
                place.tensors[name].copy_(source)
                return
            # What this pinned memory held before must have arrived.
            place.arrived.synchronize()
            place.pinned[name].copy_(source)
            with torch.cuda.stream(self._copies):
                place.tensors[name].copy_(place.pinned[name], non_blocking=True)


class StreamedModules:
    """Modules whose matrices visit the device whenever they are called.

    It hooks into the call of each module and leaves `forward` alone.
    """

    def __init__(self, modules: Sequence[nn.Module], stream: BlockStream) -> None:
        """Have `stream` serve `modules`, one block each, until `close`."""
        self._stream = stream
        self._handles: list[Any] = []
        for number, module in enumerate(modules):
            enter = partial(_enter, stream, number)
            self._handles.append(module.register_forward_pre_hook(enter))
            # Also after a call that failed: the next job finds every block waiting.
            leave = partial(_leave, stream)
            self._handles.append(module.register_forward_hook(leave, always_call=True))

    def close(self) -> None:
        """Take the hooks off and give the device memory back."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._stream.close()


@torch.compiler.disable
def _enter(stream: BlockStream, number: int, module: nn.Module, _inputs: object) -> None:
    stream.enter(number, module)


@torch.compiler.disable
def _leave(stream: BlockStream, module: nn.Module, _inputs: object, _output: object) -> None:
    stream.leave(module)
