"""Finds the parity cases and reads one; knows their files, not what they are compared with."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file

from lynx_engine.identity.embed import SubjectFace
from lynx_engine.jobs import RenderJob
from lynx_engine.shapes import FrameSize
from tests.support.renders import make_job

OWN_CASES = Path(__file__).resolve().parents[1] / "golden" / "parity"
FOLDER_VARIABLE = "LYNX_PARITY_DIR"

REQUIRED_FILES = (
    "case.json",
    "subject.png",
    "arcface_tensors.json",
    "expected.safetensors",
    "base/model_index.json",
    "base/scheduler/scheduler_config.json",
    "base/text_encoder/config.json",
    "base/tokenizer/tokenizer.json",
    "base/transformer/config.json",
    "base/vae/config.json",
    "lynx_full/resampler.safetensors",
    "lynx_full/ip_layers.safetensors",
    "lynx_full/ref_layers.safetensors",
    "lynx_lite/resampler.safetensors",
    "lynx_lite/ip_layers.safetensors",
)
REQUIRED_KEYS = (
    "face.landmarks",
    "face.identity_crop",
    "face.reference_crop",
    "face.arcface_embedding",
    "prompt_embeds",
    "negative_prompt_embeds",
    "noise",
    "timesteps",
    "sigmas",
    "full.identity_tokens",
    "full.identity_tokens_zero",
    "lite.identity_tokens",
    "full.reference_features.0",
    "full.reference_features_zero.0",
    "base.velocity_t500",
    "full.velocity_t500",
    "lite.velocity_t500",
    "full.latents",
    "lite.latents",
    "full.frames",
)


def parity_folder() -> Path:
    """Return the folder whose sub-folders are the cases."""
    return Path(os.environ.get(FOLDER_VARIABLE) or OWN_CASES)


def case_folders(folder: Path) -> list[Path]:
    """Return every sub-folder, whether or not it holds a case; [] if there are none."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir())


def faults(folder: Path) -> list[str]:
    """Return what keeps `folder` from being a complete case."""
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if (folder / "expected.safetensors").is_file():
        expected = load_file(folder / "expected.safetensors")
        missing += [f"expected.safetensors: {key}" for key in REQUIRED_KEYS if key not in expected]
    return missing


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One run of the released code.

    Attributes:
        folder: Where it lies.
        settings: `case.json`.
        expected: Inputs and results, by key.
        photo: RGB uint8 [H, W, 3].
    """

    folder: Path
    settings: dict[str, int | float | str]
    expected: dict[str, npt.NDArray[np.generic]]
    photo: npt.NDArray[np.uint8]

    def number(self, name: str) -> float:
        return float(self.settings[name])

    def text(self, name: str) -> str:
        return str(self.settings[name])

    @property
    def seed(self) -> int:
        # Not by way of a float, which rounds seeds above 2^53.
        return int(self.settings["seed"])

    def face(self) -> SubjectFace:
        """Return the subject as the released code saw it."""
        return SubjectFace(
            landmarks=self.expected["face.landmarks"].astype(np.float32),
            embedding=self.expected["face.arcface_embedding"].astype(np.float32),
            reference_crop=self.expected["face.reference_crop"].astype(np.uint8),
        )

    def job(self, variant: str) -> RenderJob:
        """Return the request that should give the case's numbers."""
        return replace(
            make_job(variant),
            prompt=self.text("prompt"),
            negative_prompt=self.text("negative_prompt"),
            seed=self.seed,
            frames=int(self.number("frames")),
            size=FrameSize(int(self.number("width")), int(self.number("height"))),
            steps=int(self.number("steps")),
            guidance_text=self.number("guidance_text"),
            guidance_identity=self.number("guidance_identity"),
            scale_identity=self.number("scale_identity"),
            scale_reference=self.number("scale_reference"),
            precision=self.text("dtype"),
        )


def read_case(folder: Path) -> Case:
    """Read one case, which must be complete."""
    missing = faults(folder)
    if missing:
        raise AssertionError(f"{folder} is no complete parity case: {', '.join(missing)}")
    photo = cv2.imread(str(folder / "subject.png"))
    assert photo is not None, f"{folder}/subject.png is no picture"
    return Case(
        folder=folder,
        settings=json.loads((folder / "case.json").read_text(encoding="utf-8")),
        expected=load_file(folder / "expected.safetensors"),
        photo=np.ascontiguousarray(photo[..., ::-1]).astype(np.uint8, copy=False),
    )


def face_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the recogniser's weights, made by the formula of tests/golden/parity/README.md."""
    recipe = json.loads((folder / "arcface_tensors.json").read_text(encoding="utf-8"))
    tensors: dict[str, torch.Tensor] = {}
    for index, (name, shape) in enumerate(sorted(recipe["tensors"])):
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(0)
            continue
        count = int(np.prod(shape))
        w = np.sin(recipe["formula_a"] * (index + 1) + 0.37 * np.arange(count)).reshape(shape)
        if name.endswith("running_var"):
            values = 1 + 0.5 * w
        elif name.endswith(("running_mean", "bias")):
            values = 0.05 * w
        elif len(shape) == 1:
            values = 1 + 0.1 * w
        else:
            values = w * 1.4 / np.sqrt(np.prod(shape[1:]))
        tensors[name] = torch.from_numpy(values.astype(np.float32))
    return tensors
