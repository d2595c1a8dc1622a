"""What is asked of a device: number types, deterministic kernels, memory, and the time it takes."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils.deterministic

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.models.checkpoint import first_line
from lynx_engine.rendering import OnStage

PRECISIONS: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# A full CPU, driver or library has no error type of its own.
_SHORTAGES = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    # What torch says of a convolution for which it found no workspace in any way of computing it.
    "unable to find an engine to execute this computation",
)


@dataclass(slots=True)
class StageClock:
    """Times the stages of one job and tells the caller of each."""

    on_stage: OnStage | None
    device: torch.device
    stages_s: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Time a stage, waiting for the device at its end."""
        self.tell(name, 0, 1)
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.stages_s[name] = time.perf_counter() - start

    def tell(self, stage: str, done: int, total: int) -> None:
        """Pass progress on."""
        if self.on_stage is not None:
            self.on_stage(stage, done, total)


@contextmanager
def tensor_float32(*, allowed: bool) -> Generator[None]:
    """Let CUDA round the factors of float32 products to 10 bits, or not; then restore torch.

    Convolutions do so by torch's own default. A CPU never does.
    """
    # Module objects with settable properties, which torch's types leave out.
    convolution: Any = torch.backends.cudnn
    matrix: Any = torch.backends.cuda.matmul
    before = convolution.allow_tf32, matrix.allow_tf32
    convolution.allow_tf32 = matrix.allow_tf32 = allowed
    try:
        yield
    finally:
        convolution.allow_tf32, matrix.allow_tf32 = before


@contextmanager
def reproducible(numerics: str) -> Generator[None]:
    """Hold torch to deterministic and exact kernels while a strict job runs, then restore it.

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
        with tensor_float32(allowed=False):
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
        if not is_memory_error(error):
            raise
        raise RowError(
            ErrorCode.OUT_OF_MEMORY,
            f"{what}: the device ran out of memory ({first_line(error)}). "
            "Choose fewer frames or a smaller size, or a device with more memory.",
        ) from error


def is_memory_error(error: BaseException) -> bool:
    """Return whether an error means that a device ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SHORTAGES)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the largest memory used: on CUDA since the last reset, else by the process ever."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    # Linux counts kilobytes here, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory_bytes(device: torch.device) -> tuple[int, int]:
    """Return (free, total) memory: of the CUDA device, else of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    import psutil

    memory = psutil.virtual_memory()
    return memory.available, memory.total


def spendable_memory_bytes(device: torch.device) -> int:
    """Return what a job may take of a CUDA device: what is free, and what torch holds already."""
    return free_memory_bytes(device)[0] + torch.cuda.memory_reserved(device)


def release_memory(device: torch.device) -> None:
    """Give back what nothing uses any more: unreachable objects and, on CUDA, cached blocks."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
