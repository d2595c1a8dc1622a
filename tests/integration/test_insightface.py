"""The insightface detector through the real insightface and onnxruntime.

No pack is to be had without a licence and a download, so the network is one made here: it has the
inputs and outputs of an SCRFD detector and sees one face, at the same place, in every picture.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lynx_engine.identity import detect

SIDE_PX = 640
STRIDES = (8, 16, 32)
ANCHORS = 2
# In units of the stride, from the anchor's centre: distances to the box, offsets of five points.
SEEN = {"score": [0.9], "bbox": [2, 2, 2, 3], "kps": [-1, -1, 1, -1, 0, 0, -1, 1, 1, 1]}
CELL = (8, 10)  # row and column of the anchor at stride 32


def write_detector(path: Path) -> None:
    """Write an SCRFD-shaped network whose outputs do not depend on its input."""
    image = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, SIDE_PX, SIDE_PX])
    nodes = [
        helper.make_node("ReduceMean", ["input.1"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nil"], ["zero"]),
    ]
    constants = [numpy_helper.from_array(np.zeros(1, np.float32), "nil")]
    outputs = []
    for kind, seen in SEEN.items():
        for stride in STRIDES:
            cells = SIDE_PX // stride
            values = np.zeros((cells * cells * ANCHORS, len(seen)), np.float32)
            if stride == STRIDES[-1]:
                values[(CELL[0] * cells + CELL[1]) * ANCHORS] = seen
            name = f"{kind}_{stride}"
            constants.append(numpy_helper.from_array(values, f"{name}_values"))
            nodes.append(helper.make_node("Add", [f"{name}_values", "zero"], [name]))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape))
    graph = helper.make_graph(nodes, "detector", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True)
    onnx.save(model, path)


@pytest.fixture
def _pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    write_detector(tmp_path / "models" / "made_here" / "det_10g.onnx")
    monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path))
    detect._detector.cache_clear()
    yield
    detect._detector.cache_clear()


@pytest.mark.usefixtures("_pack")
def test_pack_on_disk_takes_over_and_its_face_is_told_in_pixels_of_the_photo(
    capfd: pytest.CaptureFixture[str],
) -> None:
    (face,) = detect.find_faces(np.zeros((512, 512, 3), np.uint8))
    centre = np.array([CELL[1], CELL[0]]) * 32
    scale = SIDE_PX / 512  # the photo is enlarged to the network's input
    box = (*(centre - 64), centre[0] + 64, centre[1] + 96)
    assert face.box == pytest.approx([side / scale for side in box], abs=1e-3)
    points = centre + 32 * np.array(SEEN["kps"]).reshape(5, 2)
    assert np.abs(face.landmarks - points / scale).max() < 1e-3
    assert face.confidence == pytest.approx(0.9)
    assert detect.choose_face((face,), "only") is face
    assert capfd.readouterr().out == "", "stdout belongs to results"


@pytest.mark.usefixtures("_pack")
def test_name_tells_the_pack_and_that_it_is_not_for_commerce() -> None:
    name = detect.detector_name()
    assert name.endswith(" made_here/det_10g.onnx (non-commercial research only)")
