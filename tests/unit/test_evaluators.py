"""Who scores likeness: chosen without loading anything, refused with what to install."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from lynx_engine.errors import ErrorCode, RefusedError, RowError
from lynx_engine.identity import evaluators
from lynx_engine.identity.align import identity_crop
from lynx_engine.identity.detect import Face, find_faces
from lynx_engine.identity.evaluators import (
    DlibEvaluator,
    Evaluator,
    FacexlibEvaluator,
    InsightfaceEvaluator,
    calibrated,
    choose_evaluator,
    evaluator_name,
    resolve_setting,
    threshold_of,
)
from lynx_engine.models.arcface import build_face_encoder
from tests.support.faces import shipped
from tests.support.renders import astronaut
from tests.support.weights import face_tensors, list_pickle

Picture = npt.NDArray[np.uint8]


@pytest.fixture(autouse=True)
def _no_insightface_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path))


@pytest.fixture
def _no_dlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the extra `score` as if it had never been installed."""
    for module in ("dlib", "face_recognition_models"):
        monkeypatch.setitem(sys.modules, module, None)


def of_the_largest(evaluator: Evaluator, picture: Picture) -> npt.NDArray[np.float32]:
    return evaluator.embed(picture, max(find_faces(picture), key=lambda face: face.area_px))


def jpeg(picture: Picture, quality: int) -> Picture:
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert done
    assert decoded is not None
    return decoded[..., ::-1].astype(np.uint8)


def test_portrait_altered_is_the_same_person_and_eight_others_are_not(
    figure: Callable[[str], None],
) -> None:
    dlib = choose_evaluator("dlib")
    assert dlib is not None
    assert dlib.threshold is not None
    photo = astronaut()
    subject = of_the_largest(dlib, photo)
    assert subject.shape == (128,)
    altered = {
        "mirrored": photo[:, ::-1],
        "half": cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        "double": cv2.resize(photo, None, fx=2, fy=2),
        "JPEG 60": jpeg(photo, 60),
        "30 % brighter": np.clip(photo * 1.3, 0, 255),
        "30 % darker": photo * 0.7,
    }
    same = {
        name: dlib.score(subject, of_the_largest(dlib, picture.astype(np.uint8)))
        for name, picture in altered.items()
    }
    strangers = [
        shipped("insightface", "data/images/t1.jpg"),
        shipped("insightface", "data/images/Tom_Hanks_54745.png"),
        shipped("skimage", "data/camera.png"),
    ]
    others = [
        dlib.score(subject, dlib.embed(picture, face))
        for picture in strangers
        for face in find_faces(picture)
    ]
    figures = f"same {same}, others {[round(score, 3) for score in others]}"
    figure(
        f"LIKENESS dlib same={min(same.values()):.3f}..{max(same.values()):.3f} "
        f"others={min(others):.3f}..{max(others):.3f} threshold={dlib.threshold:g}"
    )
    assert len(others) == 8, figures
    assert min(same.values()) > 0.75, figures
    assert min(same.values()) >= dlib.threshold > max(others), figures
    assert dlib.score(subject, subject) == 1


def test_auto_takes_dlib_where_no_insightface_pack_is_and_always_the_same_one() -> None:
    chosen = choose_evaluator("auto")
    assert isinstance(chosen, DlibEvaluator)
    assert choose_evaluator("dlib") is chosen
    assert resolve_setting("auto") == "dlib"


def test_insightface_pack_on_disk_goes_first(tmp_path: Path) -> None:
    pack = tmp_path / "models" / "buffalo_l"
    pack.mkdir(parents=True)
    (pack / "det_10g.onnx").touch()
    assert resolve_setting("auto") == "dlib", "a detector scores nobody"
    (pack / "w600k_r50.onnx").touch()
    chosen = choose_evaluator("auto")
    assert isinstance(chosen, InsightfaceEvaluator)
    assert chosen.name.endswith(" buffalo_l/w600k_r50.onnx (non-commercial research only)")
    assert (chosen.threshold, chosen.calibration) == (None, "uncalibrated")
    with pytest.raises(RowError, match=r"w600k_r50\.onnx cannot be read") as caught:
        of_the_largest(chosen, astronaut())
    assert caught.value.code is ErrorCode.WEIGHTS


def test_none_scores_nobody() -> None:
    assert choose_evaluator("none") is None
    assert evaluator_name("none") == ""


@pytest.mark.usefixtures("_no_dlib")
def test_auto_without_anything_installed_is_nobody() -> None:
    assert choose_evaluator("auto") is None
    assert resolve_setting("auto") == "none"


@pytest.mark.usefixtures("_no_dlib")
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("dlib", r"evaluator: dlib and face_recognition_models not found.*lynx_engine\[score\]"),
        ("insightface", r"evaluator: no insightface pack .*non-commercial.*lynx_engine\[score\]"),
    ],
)
def test_evaluator_that_is_not_installed_is_refused_with_what_to_install(
    setting: str, said: str
) -> None:
    with pytest.raises(RefusedError, match=said):
        choose_evaluator(setting)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("dilb", "unknown evaluator 'dilb', did you mean 'dlib'"),
        ("recogniser", "it is auto, insightface, dlib, none or module:function"),
        ("facexlib", "conditions the clips, so it cannot judge them"),
        ("no.such:thing", "'no.such:thing' gives no evaluator: ModuleNotFoundError"),
        ("math:no_such", "gives no evaluator: AttributeError"),
        ("math:sqrt", "gives no evaluator: TypeError"),
        ("time:time", "returned float, which lacks some of name, calibration"),
    ],
)
def test_setting_that_names_no_evaluator_is_refused_with_a_letter(setting: str, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        choose_evaluator(setting)


class Reddest:
    """An evaluator of somebody else's: how red a face is."""

    name = "reddest 1 (MIT)"
    calibration = "uncalibrated"
    threshold: float | None = None

    def embed(self, picture: Picture, face: Face) -> npt.NDArray[np.float32]:
        left, top, right, bottom = (max(round(side), 0) for side in face.box)
        return picture[top:bottom, left:right, :1].mean(axis=(0, 1)).astype(np.float32)

    def score(self, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
        return 1 - float(abs(a - b)[0]) / 255


def reddest() -> Reddest:
    return Reddest()


def test_evaluator_of_somebody_else_is_found_by_its_path() -> None:
    chosen = choose_evaluator(f"{__name__}:reddest")
    assert isinstance(chosen, Reddest)
    assert evaluator_name(f"{__name__}:reddest") == "reddest 1 (MIT)"


def test_calibration_in_a_record_tells_the_threshold_again() -> None:
    assert threshold_of(calibrated(0.4, "distance 0.6: its documentation")) == 0.4
    assert threshold_of(calibrated(None)) is None
    assert threshold_of("") is None
    assert threshold_of(DlibEvaluator.calibration) == DlibEvaluator.threshold
    assert "99.38 %" in DlibEvaluator.calibration


def test_name_tells_versions_and_licences_and_loads_no_network() -> None:
    program = (
        "import sys; from lynx_engine.identity.evaluators import evaluator_name;"
        "print(evaluator_name('dlib'));"
        "assert not {'torch', 'dlib', 'insightface', 'onnxruntime', 'cv2'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("dlib 20.")
    assert "(BSL-1.0, CC0-1.0)" in done.stdout


def test_facexlibs_recogniser_scores_by_what_it_would_condition_a_clip_with(
    tmp_path: Path,
) -> None:
    path = tmp_path / "arcface" / "recognition_arcface_ir_se50.pth"
    path.parent.mkdir()
    tensors = face_tensors()
    torch.save(tensors, path)
    facexlib = FacexlibEvaluator(path, models_dir=tmp_path)
    (face,) = find_faces(astronaut())
    with pytest.raises(RowError, match=r"se50\.pth: a pickle, which is opened only after"):
        facexlib.embed(astronaut(), face)
    list_pickle(path, tmp_path)
    embedding = facexlib.embed(astronaut(), face)
    encoder = build_face_encoder(tensors, path)
    assert (embedding == encoder.embed(identity_crop(astronaut(), face.landmarks))).all()
    assert facexlib.score(embedding, 3 * embedding) == pytest.approx(1)
    assert facexlib.name.startswith("facexlib ")
    assert facexlib.threshold is None


def test_dlibs_networks_are_loaded_once_for_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    loads: list[int] = []
    load = DlibEvaluator._load

    def counted(self: DlibEvaluator) -> object:
        loads.append(1)
        return load(self)

    monkeypatch.setattr(DlibEvaluator, "_load", counted)
    dlib = evaluators.DlibEvaluator()
    (face,) = find_faces(astronaut())
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: dlib.embed(astronaut(), face), range(3)))
    assert len(loads) == 1
    assert all((embedding == found[0]).all() for embedding in found)
