"""What nvidia-smi's words mean, and which attention kernels can run."""

from __future__ import annotations

import pytest

from lynx_engine.capacity.machine import Device, parse_gpus, read_cpu
from lynx_engine.capacity.memory import CONTEXT_BYTES, GIB
from lynx_engine.cli.doctor import attention_states

TWO = (
    "0, GPU-aaaa-1, NVIDIA GeForce RTX 4090, 24564, 23028, 8.9, 570.86\n"
    "1, GPU-bbbb-2, NVIDIA H200, 143771, 143000, 9.0, 570.86\n"
)


def test_each_gpu_is_read_with_its_memory_and_driver() -> None:
    first, second = parse_gpus(TWO, None)
    assert (first.device, first.name, first.capability) == (
        "cuda:0",
        "NVIDIA GeForce RTX 4090",
        "8.9",
    )
    assert first.total_bytes == 24564 << 20
    assert first.usable_bytes == (23028 << 20) - CONTEXT_BYTES
    assert (second.device, second.driver) == ("cuda:1", "570.86")


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("1", ["NVIDIA H200"]),
        ("1,0", ["NVIDIA H200", "NVIDIA GeForce RTX 4090"]),
        ("GPU-bbbb", ["NVIDIA H200"]),
        ("", []),
        ("-1", []),
    ],
)
def test_only_visible_gpus_count_in_the_order_they_are_named(
    visible: str, names: list[str]
) -> None:
    found = parse_gpus(TWO, visible)
    assert [gpu.name for gpu in found] == names
    assert [gpu.device for gpu in found] == [f"cuda:{n}" for n in range(len(names))]


@pytest.mark.parametrize(
    "told", ["", "No devices were found", "0, GPU-x, Lost card, [N/A], [N/A], [N/A], 1.0"]
)
def test_a_card_that_does_not_answer_is_no_device(told: str) -> None:
    assert parse_gpus(told, None) == ()


def test_the_cpu_has_the_memory_of_the_machine() -> None:
    cpu = read_cpu()
    assert cpu.is_cpu
    assert 0 < cpu.free_bytes <= cpu.total_bytes
    assert cpu.usable_bytes == cpu.free_bytes


def test_each_backend_that_cannot_run_says_what_it_lacks() -> None:
    on_cpu = {b.name: b for b in attention_states([read_cpu()])}
    assert on_cpu["native"].runs
    assert not on_cpu["flash3"].runs
    assert "NVIDIA GPUs only" in on_cpu["flash3"].told
    ada = Device("cuda:0", "RTX 4090", 24 * GIB, 23 * GIB, "8.9", "570")
    on_ada = {b.name: b for b in attention_states([ada])}
    assert on_ada["cudnn"].runs
    assert "compute capability 9.x" in on_ada["flash3"].told
    assert on_ada["flash"].runs or "lynx_engine[flash]" in on_ada["flash"].told
