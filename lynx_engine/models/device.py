"""What is asked of a device: its number types, deterministic kernels, and an end to its memory."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.models.checkpoint import first_line

PRECISIONS: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@contextmanager
def reproducible(numerics: str) -> Generator[None]:
    """Hold torch to deterministic kernels while a strict job runs, then restore its settings.

    Under `normal` the settings stay as they are; on a CPU the kernels used here give the same
    numbers every time either way.
    """
    if numerics != "strict":
        yield
        return
    # A module object with a settable property, which torch's types leave out.
    memory: Any = torch.utils.deterministic
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, fill = torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    # It would write every empty tensor once more, and nothing here reads one.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        memory.fill_uninitialized_memory = fill


@contextmanager
def memory_errors(what: str) -> Generator[None]:
    """Turn the ways a device runs out of memory into one RowError that begins with `what`."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # A CPU's allocator has no type of its own.
        named = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not named and "DefaultCPUAllocator" not in str(error):
            raise
        raise RowError(
            ErrorCode.OUT_OF_MEMORY,
            f"{what}: the device ran out of memory ({first_line(error)}). "
            "Choose fewer frames or a smaller size, or a device with more memory.",
        ) from error


def peak_memory_bytes(device: torch.device) -> int:
    """Return the largest memory used: on CUDA since the last reset, else by the process ever."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    # Linux counts kilobytes here, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
