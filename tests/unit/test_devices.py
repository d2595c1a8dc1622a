"""What `--devices` means; no torch, and no GPU but those that the environment tells of."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lynx_engine.errors import RefusedError
from lynx_engine.pool.devices import compute_capability, count_gpus, find_devices, visible_to


@pytest.mark.parametrize(
    ("asked", "gpus", "devices"),
    [
        ("auto", "", ("cpu",)),
        ("auto", "-1", ("cpu",)),
        ("auto", "0,1", ("cuda:0", "cuda:1")),
        ("cpu", "0", ("cpu",)),
        ("cpu:1", "", ("cpu",)),
        ("cpu:2", "", ("cpu:0", "cpu:1")),
        ("cpu,cpu", "", ("cpu:0", "cpu:1")),
        ("cuda:1, cpu", "4,7", ("cuda:1", "cpu")),
        ("cpu:2,cuda:00", "4,7", ("cuda:0", "cpu:0", "cpu:1")),
    ],
)
def test_devices_are_found_or_taken_as_asked_each_under_its_own_name(
    monkeypatch: pytest.MonkeyPatch, asked: str, gpus: str, devices: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    assert find_devices(asked) == devices


@pytest.mark.parametrize(
    "asked", ["cuda:2", "cuda", "cuda:-1", "gpu", "cpu:0", "cpu:65", "cpu:x", "", "cpu,,cpu"]
)
def test_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(RefusedError, match=r"--devices: cannot use .*this machine shows 2 GPUs"):
        find_devices(asked)


@pytest.mark.parametrize("asked", ["cuda:0,cuda:0", "cuda:0,cpu,cuda:00"])
def test_gpu_named_twice_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(RefusedError, match="cuda:0 is named twice; one row at a time renders"):
        find_devices(asked)


NVIDIA_SMI = """\
#!/bin/sh
echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'
echo '  MIG 1g.18gb Device 0: (UUID: MIG-1)'
echo 'GPU 1: NVIDIA H200 (UUID: GPU-2)'
"""


def test_gpus_are_those_that_nvidia_smi_lists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text(NVIDIA_SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert subprocess.check_output(["nvidia-smi", "-L"]).count(b"H200") == 2
    assert count_gpus() == 2
    monkeypatch.setenv("PATH", "/nowhere")
    assert count_gpus() == 0


def test_compute_capability_is_asked_of_the_very_card(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa,GPU-bb")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\n[ "$1" = --id=GPU-bb ] && echo 9.0 || echo "No devices were found"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert compute_capability("cuda:1") == (9, 0)
    assert compute_capability("cuda:0") is None
    assert compute_capability("cpu:1") is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert compute_capability("cuda:1") is None


@pytest.mark.parametrize(
    ("outer", "device", "seen"),
    [
        (None, "cuda:3", "3"),
        ("", "cpu", ""),
        ("0,1", "cpu:1", ""),
        ("4,7", "cuda:1", "7"),
        ("GPU-aa,GPU-bb", "cuda:0", "GPU-aa"),
    ],
)
def test_process_sees_the_device_that_it_owns_and_no_other(
    monkeypatch: pytest.MonkeyPatch, outer: str | None, device: str, seen: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if outer is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", outer)
    assert visible_to(device) == seen
