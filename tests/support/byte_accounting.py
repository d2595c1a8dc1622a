"""Counts the bytes that networks really hold: every tensor's storage, from its birth to its end.

A dispatch mode sees each operation. On the meta device nothing is computed and nothing allocated,
so the true 14B networks run in seconds; over CPU tensors the very same count is taken of real
memory. What an operation allocates and frees inside itself is not seen: attention, norms and
matrix products are one operation each, as their fused kernels on a GPU are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


@dataclass(slots=True)
class Peak:
    """The moment at which most bytes were alive.

    Attributes:
        bytes: How many.
        operation: The operation that had just run.
        held: What was given as held all along: name -> bytes.
        alive: What operations had made: "operation type shape" -> bytes.
    """

    bytes: int = 0
    operation: str = ""
    held: dict[str, int] = field(default_factory=dict[str, int])
    alive: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def made_bytes(self) -> int:
        """Bytes of what operations had made: activations, caches, results."""
        return sum(self.alive.values())


@dataclass(slots=True)
class _Storage:
    reference: StorageWeakRef
    bytes: int
    label: str


class ByteAccounting(TorchDispatchMode):
    """Counts live bytes while it is entered; use it inside `torch.inference_mode()`.

    Attributes:
        peak: The largest moment so far.
    """

    def __init__(self) -> None:
        """Count from nothing."""
        super().__init__()
        self.peak = Peak()
        self._held: dict[int, torch.UntypedStorage] = {}
        self._groups: Counter[str] = Counter()
        self._made: dict[int, _Storage] = {}
        # Of `_made`, the dead that nobody has looked for yet among them.
        self._made_bytes = 0
        self._elsewhere: dict[int, torch.UntypedStorage] = {}

    def leave_out(self, tensors: Iterable[torch.Tensor]) -> None:
        """Never count these: they lie in another memory, or are counted under another name."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._elsewhere[storage._cdata] = storage

    def hold(self, group: str, tensors: Iterable[torch.Tensor]) -> int:
        """Count tensors as held until the end, under one name; return the bytes they added."""
        before = self._groups[group]
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._held:
                self._forget(storage._cdata)
                self._held[storage._cdata] = storage
                self._groups[group] += storage.nbytes()
        self._note("hold")
        return self._groups[group] - before

    @property
    def held_bytes(self) -> int:
        """Bytes of all that is held."""
        return sum(self._groups.values())

    def live_bytes(self) -> int:
        """Bytes alive now."""
        self._sweep()
        return self.held_bytes + self._made_bytes

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation and count what it made."""
        del types
        out = _attend(args) if func is _ATTENTION else func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._add(tensor, str(func))
        self._note(str(func))
        return out

    def _add(self, tensor: torch.Tensor, operation: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._made and self._made[key].reference.expired():
            self._forget(key)  # another storage has taken a dead one's address
        if key in self._held or key in self._made or key in self._elsewhere:
            return
        label = f"{operation} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        self._made[key] = _Storage(StorageWeakRef(storage), storage.nbytes(), label)
        self._made_bytes += storage.nbytes()

    def _forget(self, key: int) -> None:
        gone = self._made.pop(key, None)
        if gone is not None:
            self._made_bytes -= gone.bytes

    def _sweep(self) -> None:
        for key in [key for key, storage in self._made.items() if storage.reference.expired()]:
            self._forget(key)

    def _note(self, operation: str) -> None:
        # The dead are looked for only where they could make a moment seem the largest.
        if self.held_bytes + self._made_bytes <= self.peak.bytes:
            return
        live = self.live_bytes()
        if live > self.peak.bytes:
            alive: Counter[str] = Counter()
            for storage in self._made.values():
                alive[storage.label] += storage.bytes
            self.peak = Peak(live, operation, dict(self._groups), dict(alive))


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _attend(args: tuple[Any, ...]) -> torch.Tensor:
    """Attend, where there is something to compute; lay the result out as fused kernels do.

    [B, N, L, D] is a view of [B, L, N, D], so that joining the heads again copies nothing.
    """
    query, key, value = args[:3]
    batch, heads, length, _ = query.shape
    out = torch.empty(
        (batch, length, heads, value.shape[-1]), dtype=query.dtype, device=query.device
    ).transpose(1, 2)
    if query.device.type != "meta":
        out.copy_(_ATTENTION(query, key, value, *args[3:]))
    return out
