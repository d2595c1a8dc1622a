"""Which attention kernels this machine can run, told from what is installed; imports none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from lynx_engine.capacity.machine import Device

_NEEDS = "needs an NVIDIA GPU of compute capability"
_INSTALL = {
    "flash": "pip install 'lynx_engine[flash]'",
    "flash3": "build the hopper folder of flash-attention",
}


@dataclass(frozen=True, slots=True)
class BackendState:
    """One attention backend.

    Attributes:
        name: As the `attention` setting knows it.
        runs: Whether it can run on a device of this machine.
        told: Its version, or what it lacks and what to do.
    """

    name: str
    runs: bool
    told: str


def attention_backends(devices: Sequence[Device]) -> tuple[BackendState, ...]:
    """Return the state of each backend on the best of `devices`."""
    capability = max((_capability(device) for device in devices), default=0.0)
    torch = _version("torch")
    wanting = f"{_NEEDS} 8.0 or more"
    native = BackendState("native", bool(torch), f"torch {torch}" if torch else "install torch")
    cudnn = capability >= 8.0
    return (
        native,
        BackendState("cudnn", cudnn, "part of torch" if cudnn else wanting),
        _package("flash", "flash_attn", capability >= 8.0, lacks=wanting),
        _package(
            "flash3", "flash_attn_interface", capability >= 9.0, lacks=f"{_NEEDS} 9.0 or more"
        ),
    )


def _package(name: str, module: str, able: bool, *, lacks: str) -> BackendState:
    if not able:
        return BackendState(name, runs=False, told=lacks)
    if find_spec(module) is None:
        return BackendState(name, runs=False, told=f"not installed: {_INSTALL[name]}")
    return BackendState(name, runs=True, told="installed")


def _capability(device: Device) -> float:
    try:
        return float(device.capability)
    except ValueError:
        return 0.0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
