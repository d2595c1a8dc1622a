"""Falconsai/nsfw_image_detection, a vision transformer, from the files of `models pull safety`.

Read from these files alone: safetensors, no code of the repository, no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.safety.classifiers import KNOWN, ClassifierPlace
from lynx_engine.safety.weights import FOLDER, SAFETY
from lynx_engine.weights.digests import check_digests
from lynx_engine.weights.lock import read_lock

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from transformers import ViTForImageClassification, ViTImageProcessorPil

_FLAGGED = "nsfw"
_LABELS = ["normal", _FLAGGED]
_CURE = "Fetch it again: `lynx-engine models pull safety --replace`."


class Falconsai:
    """See `Classifier`."""

    licence = "Apache-2.0"
    floor = KNOWN["falconsai"].floor

    def __init__(
        self,
        model: ViTForImageClassification,
        processor: ViTImageProcessorPil,
        *,
        labels: Sequence[str],
        revision: str,
        threads: int,
    ) -> None:
        """Use a loaded model.

        Args:
            model: Ready to classify.
            processor: Prepares frames for it.
            labels: What its outputs mean, in their order.
            revision: The repository's commit, "" if it is not known.
            threads: CPU threads it may use.
        """
        self.name = f"falconsai {revision[:12]}".rstrip()
        self._model = model
        self._processor = processor
        self._threads = threads
        self._flagged = labels.index(_FLAGGED)

    def scores(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return P(nsfw) of each frame, [F]; frames RGB uint8 [F, H, W, 3]."""
        # torch keeps this number for each thread that uses it.
        torch.set_num_threads(self._threads)
        pixels = self._processor(list(frames), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            logits = self._model(pixel_values=pixels).logits
        return logits.softmax(-1)[:, self._flagged].numpy()


def load_falconsai(place: ClassifierPlace) -> Falconsai:
    """Load the model, after its files were compared with `models.lock.json`.

    Raises:
        RowError: WEIGHTS, if a file is missing, differs from the lock or is no such model, or the
            model's labels are not `normal` and `nsfw`.
    """
    from transformers import ViTForImageClassification, ViTImageProcessorPil

    check_digests(SAFETY, place.models_dir, cache_dir=place.cache_dir)
    folder = place.models_dir / FOLDER
    try:
        processor = ViTImageProcessorPil.from_pretrained(folder, local_files_only=True)
        model, found = cast(
            "tuple[ViTForImageClassification, dict[str, set[str]]]",
            ViTForImageClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            ),
        )
    except Exception as error:
        text = f"{folder}: is no vision transformer that classifies images ({error}). {_CURE}"
        raise RowError(ErrorCode.WEIGHTS, text) from error
    absent = sorted({*found["missing_keys"], *found["mismatched_keys"]})
    if absent:
        # transformers would fill them with random numbers.
        text = f"{folder}: its weights lack {', '.join(map(str, absent[:3]))}. {_CURE}"
        raise RowError(ErrorCode.WEIGHTS, text)
    labels = [str(word) for _, word in sorted((model.config.id2label or {}).items())]
    if sorted(labels) != _LABELS:
        text = (
            f"{folder}: config.json names the labels {', '.join(labels)}; this classifier's are "
            f"{' and '.join(_LABELS)}. {_CURE}"
        )
        raise RowError(ErrorCode.WEIGHTS, text)
    entry = read_lock(place.models_dir).get(SAFETY.files[-1])
    return Falconsai(
        model.eval(),
        processor,
        labels=labels,
        revision=entry.revision if entry else "",
        threads=place.threads,
    )
