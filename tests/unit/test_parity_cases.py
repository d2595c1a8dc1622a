"""How a parity case becomes a job; what the engine makes of it is compared in tests/parity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.parity.cases import Case, case_folders, faults

SETTINGS: dict[str, int | float | str] = {
    "height": 96,
    "width": 48,
    "frames": 5,
    "steps": 1,
    "guidance_text": 5,
    "guidance_identity": 2,
    "scale_identity": 0,
    "scale_reference": 0.5,
    "seed": 2**53 + 1,
    "prompt": "A",
    "negative_prompt": "",
    "dtype": "float32",
}


def test_seed_too_large_for_a_float_arrives_whole() -> None:
    case = Case(Path(), SETTINGS, {}, np.zeros((1, 1, 3), np.uint8))
    assert case.job("lynx_full").seed == 9007199254740993


def test_portrait_stays_a_portrait() -> None:
    size = Case(Path(), SETTINGS, {}, np.zeros((1, 1, 3), np.uint8)).job("lynx_lite").size
    assert (size.width_px, size.height_px) == (48, 96)


def test_folder_without_a_case_is_found_and_faulty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (folder,) = case_folders(tmp_path)
    assert "case.json" in faults(folder)


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_folder_that_is_none_has_no_cases(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    assert case_folders(tmp_path / name) == []
