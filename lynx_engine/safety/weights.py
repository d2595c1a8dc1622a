"""The classifier that `lynx-engine models pull safety` fetches: which files, from where."""

from __future__ import annotations

from lynx_engine.weights.origins import HubFolder, WeightFile, WeightSet

_REPOSITORY = "Falconsai/nsfw_image_detection"
_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")

FOLDER = "safety/nsfw_image_detection"

SAFETY = WeightSet(
    name="safety",
    weights=(
        WeightFile(
            FOLDER,
            f"huggingface.co/{_REPOSITORY}",
            "Apache-2.0",
            HubFolder(_REPOSITORY, "", _FILES),
        ),
    ),
    files=tuple(f"{FOLDER}/{name}" for name in _FILES),
)
