"""Finds the devices of this machine without loading torch, which costs seconds."""

from __future__ import annotations

import os
import shutil
import subprocess

from lynx_engine.errors import Problem, RefusedError

_MOST_CPU_WORKERS = 64


def find_devices(asked: str = "auto") -> tuple[str, ...]:
    """Return the devices to use, each name once.

    Args:
        asked: `auto` (every GPU, else one CPU worker), or a list as `cuda:0,cuda:2` or `cpu:2`
            (two workers on the CPU, `cpu:0` and `cpu:1`).

    Raises:
        RefusedError: If the words are not of that form, name a GPU that is not there, or name one
            twice.
    """
    gpus = count_gpus()
    if asked == "auto":
        return tuple(f"cuda:{n}" for n in range(gpus)) or ("cpu",)
    names: list[str] = []
    cpus = 0
    for name in asked.split(","):
        kind, _, number = name.strip().partition(":")
        if kind == "cpu" and (number == "" or _is_count(number)):
            cpus += int(number or 1)
        elif kind == "cuda" and number.isdecimal() and int(number) < gpus:
            names.append(f"cuda:{int(number)}")
        else:
            seen = f"this machine shows {gpus} GPU{'' if gpus == 1 else 's'}"
            text = f"cannot use '{name.strip()}'; {seen}. Write auto, cpu, cpu:2 or cuda:0,cuda:1."
            raise RefusedError([Problem("--devices", text)])
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        text = f"{', '.join(twice)} is named twice; one row at a time renders on a GPU."
        raise RefusedError([Problem("--devices", text)])
    return (*names, *(["cpu"] if cpus == 1 else [f"cpu:{n}" for n in range(cpus)]))


def _is_count(number: str) -> bool:
    return number.isdecimal() and 1 <= int(number) <= _MOST_CPU_WORKERS


def count_gpus() -> int:
    """Count the NVIDIA GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in {"", "-1"}])
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def visible_to(device: str) -> str:
    """Return the CUDA_VISIBLE_DEVICES of a process that owns `device` alone."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return ""
    outer = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in outer.split(",") if name.strip()]
    return names[int(number)] if names else number


def compute_capability(device: str) -> tuple[int, int] | None:
    """Return the CUDA compute capability of `cuda:0`, ...; None for a CPU, or if it is not told."""
    tool = shutil.which("nvidia-smi")
    if tool is None or device.partition(":")[0] != "cuda":
        return None
    command = [
        tool,
        f"--id={visible_to(device)}",
        "--query-gpu=compute_cap",
        "--format=csv,noheader",
    ]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    major, _, minor = told.stdout.strip().partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
