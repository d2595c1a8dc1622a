"""Where a network's tensors are: on the device, or in their files.

A tensor that waits holds no memory: its place in the network is taken by a `meta` tensor of its
shape and type, so that whoever computes with it fails, and the numbers stay in the file. Coming to
the device reads and casts them; leaving it copies nothing back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from lynx_engine.models.checkpoint import weights_error
from lynx_engine.models.tensor_files import TensorSource


class Residence:
    """Brings the tensors of one network to its device and lets them go again."""

    def __init__(
        self,
        network: nn.Module,
        source: TensorSource,
        *,
        device: torch.device,
        dtypes: Callable[[str], torch.dtype],
    ) -> None:
        """Let every tensor of `source` wait; buffers that no file holds go to the device at once.

        Args:
            network: Built on the meta device, of exactly these tensors.
            source: Its tensors.
            device: Where it computes.
            dtypes: Name of a tensor -> type to hold it in on the device.
        """
        self._network = network
        self._source = source
        self._device = device
        self._dtypes = dtypes
        self._present: set[str] = set()
        for name, buffer in list(network.named_buffers()):
            if name not in source.shapes:
                # Such a one on the meta device has no numbers to lose, and nothing reads it.
                made = torch.zeros_like(buffer, device="cpu") if buffer.is_meta else buffer
                put(network, name, made.to(device))
        for name in source.shapes:
            put(network, name, self._waiting(name))

    @property
    def is_whole(self) -> bool:
        """Whether every tensor is on the device."""
        return len(self._present) == len(self._source.shapes)

    def stay(self) -> None:
        """Bring every tensor to the device.

        Raises:
            RowError: WEIGHTS, if a file is gone, damaged, or holds numbers that are not finite.
        """
        self.keep(self._source.shapes)

    def leave(self) -> None:
        """Let every tensor wait."""
        self.keep(())

    @contextmanager
    def visiting(self) -> Generator[None]:
        """Have the whole network on the device inside the block, and after it as it was before."""
        before = set(self._present)
        try:
            # Inside: a move that ends for want of memory has moved a part.
            self.stay()
            yield
        finally:
            self.keep(before)

    def keep(self, wanted: Collection[str]) -> None:
        """Have exactly the tensors named `wanted` on the device.

        Raises:
            RowError: WEIGHTS, as `stay` does.
        """
        self.let_go(wanted)
        self.bring(dict.fromkeys(self.missing(wanted), None))

    def let_go(self, wanted: Collection[str]) -> None:
        """Let every tensor wait but those named `wanted`."""
        for name in self._present.difference(wanted):
            self.drop(name)

    def missing(self, wanted: Collection[str]) -> list[str]:
        """Return those of `wanted` that wait."""
        return [name for name in wanted if name not in self._present]

    def bring(self, numbers: Mapping[str, torch.Tensor | None]) -> None:
        """Bring tensors to the device.

        Args:
            numbers: Name -> its numbers, of any type, where they are at hand; None has them read
                from the network's files, one tensor in memory at a time.

        Raises:
            RowError: WEIGHTS, as `stay` does.
        """
        extremes: dict[str, torch.Tensor] = {}
        to_read = [name for name, given in numbers.items() if given is None]
        for name, given in numbers.items():
            if given is not None:
                extremes[name] = self._place(name, given)
        for name, read in self._source.read(to_read) if to_read else ():
            extremes[name] = self._place(name, read)
        self._check_finite(extremes)

    def drop(self, name: str) -> None:
        """Let one tensor wait."""
        put(self._network, name, self._waiting(name))
        self._present.discard(name)

    def _place(self, name: str, numbers: torch.Tensor) -> torch.Tensor:
        # Copied even where type and device are the file's own: all tensors of a device are aligned
        # alike then, wherever a file's header ends, and a file that is replaced changes no result.
        with torch.inference_mode(False), torch.no_grad():
            placed = numbers.to(self._device, self._dtypes(name), copy=True)
        put(self._network, name, placed)
        self._present.add(name)
        return torch.stack(torch.aminmax(placed)).float()

    def _check_finite(self, extremes: Mapping[str, torch.Tensor]) -> None:
        """Refuse tensors with NaN or infinity; the device is asked once for all of them."""
        if not extremes or self._device.type == "meta":
            return
        finite = torch.isfinite(torch.stack(list(extremes.values()))).all(dim=1).tolist()
        broken = [name for name, good in zip(extremes, finite, strict=True) if not good]
        if broken:
            for name in broken:
                self.drop(name)
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            what = f"holds numbers that are not finite, in {broken[0]}{more}"
            raise weights_error(self._source.path, what)

    def _waiting(self, name: str) -> torch.Tensor:
        shape = self._source.shapes[name]
        with torch.inference_mode(False):
            return torch.empty(shape, dtype=self._dtypes(name), device="meta")


def put(network: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Set the parameter or buffer called `name`, `part.part.leaf`, of a network."""
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    # A LoRA laid over a layer wraps it.
    module = getattr(module, "base_layer", module)
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
        return
    with torch.inference_mode(False):
        fixed = isinstance(tensor, nn.Parameter)
        module._parameters[leaf] = tensor if fixed else nn.Parameter(tensor, requires_grad=False)
