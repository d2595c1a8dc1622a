"""The calibration file: kept whole, told when damaged, never a crash."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lynx_engine.capacity.calibration import (
    FILE_NAME,
    Calibration,
    Calibrations,
    keep_calibrations,
    read_calibrations,
)
from lynx_engine.capacity.cost import Speeds

SPEEDS = Speeds(1e12, 2e10, (1e-3, 2e-6, 3e-11), (1e-3, 0.0), 1e-3, 2e-3, (0.1, 1e-7))
ENTRY = Calibration(
    "NVIDIA H200", "2.13.0", "native", "bfloat16", "5120", 1, "2026-01-01T00:00:00+00:00", SPEEDS
)


def found(calibrations: Calibrations, **changes: str) -> Calibration | None:
    wanted = {
        "device_name": "NVIDIA H200",
        "torch_version": "2.13.0",
        "precision": "bfloat16",
        "architecture": "5120",
    }
    return calibrations.find(**(wanted | changes))


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    keep_calibrations(tmp_path / "new", [ENTRY])
    assert found(read_calibrations(tmp_path / "new")) == ENTRY


@pytest.mark.parametrize("field", ["device_name", "torch_version", "precision", "architecture"])
def test_an_entry_holds_for_its_own_device_and_model_only(tmp_path: Path, field: str) -> None:
    keep_calibrations(tmp_path, [ENTRY])
    assert found(read_calibrations(tmp_path), **{field: "another"}) is None


def test_a_new_measurement_replaces_the_old_one_and_leaves_the_others(tmp_path: Path) -> None:
    other = replace(ENTRY, precision="float16")
    keep_calibrations(tmp_path, [ENTRY, other])
    newer = replace(ENTRY, speeds=replace(SPEEDS, step_s=7.0))
    keep_calibrations(tmp_path, [newer])
    entries = read_calibrations(tmp_path).entries
    assert sorted(e.precision for e in entries) == ["bfloat16", "float16"]
    assert found(read_calibrations(tmp_path)) == newer
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_no_file_means_nothing_was_measured_and_is_no_fault(tmp_path: Path) -> None:
    assert read_calibrations(tmp_path) == Calibrations()


def damaged(text: str, damage: str) -> bytes:
    whole = json.loads(text)
    if damage == "cut":
        return text[: len(text) // 2].encode()
    if damage == "number changed":
        return text.replace("2e-06", "9e-06").encode()
    if damage == "other version":
        return json.dumps({**whole, "version": 99}).encode()
    if damage == "entry of another shape":
        return json.dumps({**whole, "entries": [{}]}).encode()
    return {"not JSON": b"\xff\x00", "empty": b"", "a list": b"[]", "a word": b'"x"'}[damage]


@pytest.mark.parametrize(
    "damage",
    [
        "cut",
        "number changed",
        "other version",
        "entry of another shape",
        "not JSON",
        "empty",
        "a list",
        "a word",
    ],
)
def test_a_damaged_file_says_calibrate_again_and_can_be_written_over(
    tmp_path: Path, damage: str
) -> None:
    path = keep_calibrations(tmp_path, [ENTRY])
    path.write_bytes(damaged(path.read_text(), damage))
    calibrations = read_calibrations(tmp_path)
    assert calibrations.entries == ()
    assert str(path) in calibrations.fault
    assert "run lynx-engine doctor --calibrate" in calibrations.fault
    keep_calibrations(tmp_path, [ENTRY])
    assert found(read_calibrations(tmp_path)) == ENTRY


def test_every_single_changed_byte_is_harmless(tmp_path: Path) -> None:
    path = keep_calibrations(tmp_path, [ENTRY])
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        calibrations = read_calibrations(tmp_path)
        assert calibrations.fault or calibrations.entries == (ENTRY,)
