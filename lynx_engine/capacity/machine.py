"""What devices this machine has, read from the system and nvidia-smi; no torch, no CUDA."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lynx_engine.capacity.memory import CONTEXT_BYTES

_QUERY = "index,uuid,name,memory.total,memory.free,compute_cap,driver_version"
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Device:
    """One device that can render.

    Attributes:
        device: The engine's name of it: `cpu`, `cuda:0`.
        name: Its own name.
        total_bytes: Its memory; of a CPU the machine's.
        free_bytes: What is free of it now.
        capability: CUDA compute capability, as `9.0`; "" for a CPU.
        driver: Version of its driver; "" for a CPU.
    """

    device: str
    name: str
    total_bytes: int
    free_bytes: int
    capability: str = ""
    driver: str = ""

    @property
    def is_cpu(self) -> bool:
        """Whether it is the machine's processor."""
        return self.device.startswith("cpu")

    @property
    def usable_bytes(self) -> int:
        """What a job can have of the free memory once CUDA has started."""
        return self.free_bytes if self.is_cpu else max(self.free_bytes - CONTEXT_BYTES, 0)


def read_gpus() -> tuple[Device, ...]:
    """Return the NVIDIA GPUs that this process may use, in CUDA's order of them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_gpus(told.stdout, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpus(table: str, visible: str | None) -> tuple[Device, ...]:
    """Return the GPUs of nvidia-smi's answer.

    Args:
        table: A line for each, with the fields that `read_gpus` asks for.
        visible: CUDA_VISIBLE_DEVICES: indices or the beginnings of uuids; None where it is not set.
    """
    found: list[tuple[str, str, Device]] = []
    for line in table.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(_QUERY.split(",")):
            continue
        index, uuid, name, total, free, capability, driver = fields
        # A card that has fallen off its bus answers "[N/A]" here.
        if total.isdecimal() and free.isdecimal():
            gpu = Device("", name, int(total) * _MIB, int(free) * _MIB, capability, driver)
            found.append((index, uuid, gpu))
    if visible is None:
        chosen = [gpu for _, _, gpu in found]
    else:
        names = [name.strip() for name in visible.split(",") if name.strip()]
        chosen = [
            gpu
            for name in names
            for index, uuid, gpu in found
            if name == index or (name.startswith("GPU-") and uuid.startswith(name))
        ]
    return tuple(
        Device(
            f"cuda:{n}",
            g.name,
            g.total_bytes,
            g.free_bytes,
            capability=g.capability,
            driver=g.driver,
        )
        for n, g in enumerate(chosen)
    )


def read_cpu() -> Device:
    """Return the processor with the machine's memory."""
    import psutil

    memory = psutil.virtual_memory()
    return Device("cpu", cpu_name(), memory.total, memory.available)


def cpu_name() -> str:
    """Return the processor's own name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def find_devices() -> tuple[Device, ...]:
    """Return every GPU, else the CPU: what `--devices auto` renders on."""
    return read_gpus() or (read_cpu(),)
