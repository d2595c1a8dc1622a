"""Makes the weights of the tiny variants, the same numbers on every machine.

Nothing here is trained. A tensor's numbers come from a counter-based bit stream keyed by the
tensor's name, by exact arithmetic alone: no library's `normal()` and no torch generator, whose
numbers differ between releases. The gains below were chosen by eye, so that the pictures are
colourful moving texture that answers to prompt, seed and subject.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.models.tiny_layout import (
    JSON_FILES,
    TENSOR_FILES,
    tensor_shapes,
)
from lynx_engine.weights.lock import write_lock

Tensors = dict[str, npt.NDArray[np.float32]]

DIGEST = "add7a8eb78298af8c0e4bc7c745ed93cf752c288738a263ae8efe6d135ac36b6"
"""sha256 over every tensor's file, name, shape and bytes; changes only with the recipe."""

_ONES = re.compile(
    r"(norm[^.]*\.weight|gamma|running_var"
    r"|(res_layer\.[04]|shortcut_layer\.1|input_layer\.1|output_layer\.[04])\.weight)$"
)
_ZEROS = re.compile(r"(norm[^.]*\.bias|running_mean)$")

GAINS: tuple[tuple[str, float], ...] = (
    (r"text_encoder.*:shared", 8.0),
    (r"attn2\.norm_k\.weight", 3.0),
    (r"attn2\.to_out\.0\.weight", 3.0),
    (r"(input_layer|res_layer)\.2\.weight", 0.25),
    (r"resampler.*proj_in\.weight", 20.0),
    (r"to_v_(ip|ref)\.weight", 2.0),
    (r"vae.*decoder.*resnets.*conv2\.weight", 0.3),
    (r"bias$", 0.05),
)
"""The first pattern found in "file:tensor" gives its gain: 1 keeps the size of what passes."""


def build_tiny_weights(folder: Path) -> None:
    """Write the tiny variants' weights into `folder`, in the public layout.

    The files appear all at once: they are written beside `folder` and renamed. When another
    process is faster, its files stay.

    Args:
        folder: Does not exist yet, or holds finished weights.

    Raises:
        RowError: WEIGHTS, if this machine computed other numbers than the recipe's.
        OSError: If the disk is full or not writable.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made = {path: make_tensors(path, tensor_shapes(path)) for path in TENSOR_FILES}
        check_digest(digest_of(made))
        for path, tensors in made.items():
            (building / path).parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, building / path, metadata={"format": "pt"})
        for path, content in JSON_FILES.items():
            (building / path).parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (building / path).write_text(text, encoding="utf-8")
        write_lock(building)
        building.chmod(0o755)
        _publish(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def make_tensors(path: str, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Return the tensors of one file, by name."""
    return {name: make_tensor(f"{path}:{name}", shape) for name, shape in sorted(shapes.items())}


def make_tensor(label: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return one tensor, float32.

    Norm weights are 1, biases and running means 0, running variances 1. All else is

    w = gain sqrt(3 / fan_in) u, u uniform in [-1, 1)

    whose standard deviation is gain / sqrt(fan_in).

    Args:
        label: "file:tensor"; the only seed.
        shape: Axes of the tensor; the fan-in is the product of all but the first.
    """
    name = label.rpartition(":")[2]
    if _ONES.search(name):
        return np.full(shape, gain_of(label), np.float32)
    if _ZEROS.search(name):
        return np.zeros(shape, np.float32)
    fan_in = math.prod(shape[1:]) or 1
    scale = gain_of(label) * math.sqrt(3 / fan_in)
    return (scale * uniform(label, shape)).astype(np.float32)


def gain_of(label: str) -> float:
    """Return the first gain of `GAINS` whose pattern is found in `label`, else 1."""
    return next((gain for pattern, gain in GAINS if re.search(pattern, label)), 1.0)


def uniform(label: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return numbers in [-1, 1) that depend on `label` alone, in steps of 2^-23."""
    key = int.from_bytes(hashlib.sha256(label.encode()).digest()[:16], "little")
    bits = np.random.Philox(key=key).random_raw(math.prod(shape))
    return ((bits >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0).reshape(shape)


def digest_of(files: Mapping[str, Tensors]) -> str:
    """Return one sha256 over all tensors: file, name, shape, and bytes in little-endian order."""
    digest = hashlib.sha256()
    for path, tensors in sorted(files.items()):
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{path}:{name}:{tensor.shape}".encode())
            digest.update(tensor.astype("<f4").tobytes())
    return digest.hexdigest()


def check_digest(found: str) -> None:
    """Accept the recipe's numbers and no others.

    Raises:
        RowError: WEIGHTS.
    """
    if found != DIGEST:
        raise RowError(
            ErrorCode.WEIGHTS,
            f"the tiny weights came out as {found}, the recipe's are {DIGEST}: this machine or "
            "its diffusers, transformers or numpy computes something else. Install the versions "
            "of constraints.txt.",
        )


def _publish(building: Path, folder: Path) -> None:
    try:
        building.rename(folder)
    except OSError:
        # A folder that is not empty cannot be replaced: another process was faster.
        if not folder.is_dir():
            raise
