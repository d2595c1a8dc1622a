"""Lets a module of a stock model return what it returned before, while that is the same.

The stock forward of the model runs as ever; only the module's own work is left out.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")


class Scope:
    """Where modules look before they compute.

    Attributes:
        values: What was made since something changed, by name; None while nothing is kept.
    """

    def __init__(self) -> None:
        """Keep nothing yet."""
        self.values: dict[str, Any] | None = None

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return the value of this name, made now if it is not there."""
        if self.values is None:
            return make()
        if name not in self.values:
            self.values[name] = make()
        return self.values[name]


def reuse_output(module: nn.Module, scope: Scope, name: str) -> None:
    """Have `module` compute its output once in each filling of `scope`.

    The module stays the same object under the same name: weights, hooks and LoRAs find it.
    """
    stock = type(module).forward
    # Not the module itself, nor a bound method: a cycle would outlive the engine's last name.
    reference = weakref.ref(module)

    def forward(*args: object, **kwargs: object) -> object:
        return scope.once(name, lambda: stock(reference(), *args, **kwargs))

    module.forward = forward


class Sameness:
    """Tells whether tensors are those that were seen first, and unchanged as far as torch knows.

    In inference mode torch keeps no count of changes: there the tensors of one step, and the texts
    of one clip, must stay as they are.
    """

    def __init__(self, *tensors: torch.Tensor) -> None:
        """Remember `tensors`, by identity; they stay alive as long as this does."""
        self._tensors = tensors
        self._versions = [_version(tensor) for tensor in tensors]

    def holds(self, *tensors: torch.Tensor) -> bool:
        """Whether each is the very tensor of before."""
        return all(
            new is old and _version(new) == version
            for new, old, version in zip(tensors, self._tensors, self._versions, strict=True)
        )


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
