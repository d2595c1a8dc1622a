"""Attention backends: which there are, which can run on a device, and which one is chosen.

A backend is a kernel family that computes softmax attention; diffusers' dispatcher calls it. This
module loads no torch, so that a command can refuse before any work begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from lynx_engine.errors import Problem, RefusedError

_HALF_PRECISIONS = ("bfloat16", "float16")
_GENERATIONS = {7: "Volta or Turing", 8: "Ampere or Ada", 9: "Hopper"}
_OLDEST_FLASH = (2, 6, 3)


@dataclass(frozen=True, slots=True)
class Backend:
    """One attention backend.

    Attributes:
        name: The word of the setting `attention`.
        dispatcher: diffusers' name for it.
        title: Its name for people.
        capabilities: First and last CUDA compute capability it has kernels for; None where it
            also runs on a CPU.
        package: The module it comes in; "" for what PyTorch brings along.
        install: How to get that module.
    """

    name: str
    dispatcher: str
    title: str
    capabilities: tuple[tuple[int, int], tuple[int, int]] | None = None
    package: str = ""
    install: str = ""


NATIVE = Backend("native", "native", "torch SDPA")
CUDNN = Backend("cudnn", "_native_cudnn", "cuDNN attention", ((8, 0), (99, 9)))
FLASH = Backend(
    "flash",
    "flash",
    "FlashAttention 2",
    ((8, 0), (99, 9)),
    "flash_attn",
    "pip install 'lynx_engine[flash]', where a CUDA compiler is",
)
FLASH_3 = Backend(
    "flash3",
    "_flash_3",
    "FlashAttention 3",
    ((9, 0), (9, 9)),
    "flash_attn_interface",
    "build it from the folder hopper of github.com/Dao-AILab/flash-attention",
)
BACKENDS = (FLASH_3, CUDNN, FLASH, NATIVE)

# By the first digit of the compute capability, fastest first. On Hopper and later cuDNN beats
# FlashAttention 2; before that it wins nothing over the flash kernels that PyTorch brings along.
_PREFERENCES = {8: (FLASH, NATIVE), 9: (FLASH_3, CUDNN, FLASH, NATIVE)}
_NEWER = (CUDNN, FLASH, NATIVE)


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What decides which backends can run.

    Attributes:
        device: torch's or the pool's name of the device, for messages: `cpu`, `cuda:0`.
        capability: CUDA compute capability, as (9, 0); None for a CPU.
        packages: Modules of attention kernels that are installed, of those in `BACKENDS`.
        precision: Type of the pass: float32, bfloat16 or float16.
    """

    device: str
    capability: tuple[int, int] | None
    packages: frozenset[str]
    precision: str


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """The backend of an engine, and why.

    Attributes:
        dispatcher: diffusers' name for it.
        title: Its name for people, as records keep it.
        reason: Why this one.
    """

    dispatcher: str
    title: str
    reason: str

    def __str__(self) -> str:
        """Return `torch SDPA (native)`, the form that records keep."""
        return f"{self.title} ({self.dispatcher})"


STRICT_ATTENTION = AttentionChoice(
    NATIVE.dispatcher, NATIVE.title, "numerics: strict always computes with it"
)


class BackendError(ValueError):
    """A backend that was asked for cannot run; the text says why and what to do."""


def installed_packages() -> frozenset[str]:
    """Return the attention modules that are installed and new enough; none is imported."""
    found = {b.package for b in BACKENDS if b.package and find_spec(b.package) is not None}
    if FLASH.package in found and _version("flash-attn") < _OLDEST_FLASH:
        found.discard(FLASH.package)
    return frozenset(found)


def why_not(backend: Backend, facts: DeviceFacts) -> str:
    """Return "" if `backend` can run, else why it cannot and what would help."""
    if backend.capabilities is None:
        return ""
    if facts.capability is None:
        return f"it has kernels for NVIDIA GPUs only and {facts.device} is none"
    first, last = backend.capabilities
    if not first <= facts.capability <= last:
        has = ".".join(map(str, facts.capability))
        wants = f"{first[0]}.x" if first[0] == last[0] else f"{first[0]}.{first[1]} or newer"
        return f"it has kernels for compute capability {wants} and {facts.device} has {has}"
    if facts.precision not in _HALF_PRECISIONS:
        return f"it computes {' and '.join(_HALF_PRECISIONS)} only and the rows ask for float32"
    if backend.package and backend.package not in facts.packages:
        return f"{backend.package} is not installed, or too old: {backend.install}"
    return ""


def choose_attention(asked: str, facts: DeviceFacts) -> AttentionChoice:
    """Return the backend of a device.

    Args:
        asked: `auto`, which takes the fastest that runs, or the name of one.
        facts: The device and the type of the pass.

    Raises:
        BackendError: If the one asked for cannot run, or there is none of that name.
    """
    if asked == "auto":
        return _fastest(facts)
    backend = next((b for b in BACKENDS if b.name == asked), None)
    if backend is None:
        known = ", ".join(b.name for b in BACKENDS)
        raise BackendError(f"there is no attention '{asked}'. Write auto, {known}.")
    reason = why_not(backend, facts)
    if reason:
        raise BackendError(
            f"attention '{asked}' ({backend.title}) cannot run on {facts.device}: {reason}. "
            "attention = 'auto' takes the fastest that runs here."
        )
    return AttentionChoice(backend.dispatcher, backend.title, "asked for by the setting")


def check_attention(asked: str, devices: Iterable[DeviceFacts]) -> None:
    """Accept a backend that every device can run.

    Raises:
        RefusedError: Naming each device that cannot, and why.
    """
    problems: dict[Problem, None] = {}
    for facts in devices:
        try:
            choose_attention(asked, facts)
        except BackendError as error:
            problems[Problem("attention", str(error))] = None
    if problems:
        raise RefusedError(problems)


def _fastest(facts: DeviceFacts) -> AttentionChoice:
    if facts.capability is None:
        return AttentionChoice(NATIVE.dispatcher, NATIVE.title, "a CPU runs no other")
    major = facts.capability[0]
    order = _PREFERENCES.get(major, _NEWER if major > 9 else (NATIVE,))
    skipped: list[str] = []
    for backend in order:
        obstacle = why_not(backend, facts)
        if not obstacle:
            generation = _GENERATIONS.get(major, "newer than Hopper" if major > 9 else "old")
            told = f" ({'; '.join(skipped)})" if skipped else ""
            reason = f"{generation}: the fastest that runs on {facts.device}{told}"
            return AttentionChoice(backend.dispatcher, backend.title, reason)
        skipped.append(f"not {backend.title}, as {obstacle}")
    raise AssertionError("torch SDPA runs everywhere")


def _version(distribution: str) -> tuple[int, ...]:
    """Return the leading numbers of an installed version; () if they cannot be had."""
    try:
        parts = metadata.version(distribution).split(".")
    except metadata.PackageNotFoundError:
        return ()
    numbers: list[int] = []
    for part in parts:
        digits = "".join(c for c in part[: len(part) - len(part.lstrip("0123456789"))])
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
