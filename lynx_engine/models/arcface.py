"""The recogniser that makes the identity embedding: ArcFace on an IR-SE network.

Source: arXiv 1801.07698; tensor names of facexlib's `recognition_arcface_ir_se50.pth`. Depth and
widths are read from the tensors, so a small checkpoint is the same class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from lynx_engine.models.checkpoint import check_shapes, require_shape, shapes_of

CROP_PX = 112


@dataclass(frozen=True, slots=True)
class UnitShape:
    """One residual unit: channels in and out, and the squeezed channels of its gate."""

    channels_in: int
    channels_out: int
    squeezed: int
    starts_stage: bool

    @property
    def stride(self) -> int:
        """A stage begins by halving the picture."""
        return 2 if self.starts_stage else 1


class Gate(nn.Module):
    """Squeeze and excite: each channel times a weight in (0, 1) made from all channel means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        """Gate `channels` through a bottleneck of `squeezed`."""
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, kernel_size=1, bias=False)
        self.fc2 = nn.Conv2d(squeezed, channels, kernel_size=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate x [B, C, H, W]."""
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(means))))


class Unit(nn.Module):
    """One residual unit of the "improved residual" kind: norm first, gate last."""

    def __init__(self, shape: UnitShape) -> None:
        """Build the unit `shape` describes."""
        super().__init__()
        into, out, stride = shape.channels_in, shape.channels_out, shape.stride
        if into == out:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(kernel_size=1, stride=stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(into, out, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(into),
            nn.Conv2d(into, out, kernel_size=3, stride=1, padding=1, bias=False),
            nn.PReLU(out),
            nn.Conv2d(out, out, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            Gate(out, shape.squeezed),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return shortcut plus residual of x [B, C, H, W]."""
        return self.shortcut_layer(x) + self.res_layer(x)


class FaceEncoder(nn.Module):
    """identity_embedding = face_encoder(identity_crop)."""

    def __init__(self, units: Sequence[UnitShape], *, stem: int, embedding: int, flat: int) -> None:
        """Build stem, units and head; `flat` is the number of features the head reads."""
        super().__init__()
        self.embedding_width = embedding
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, stem, kernel_size=3, stride=1, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.PReLU(stem),
        )
        self.body = nn.Sequential(*(Unit(shape) for shape in units))
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(units[-1].channels_out),
            # Idle at inference; it keeps the released numbering of the layers after it.
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(flat, embedding),
            nn.BatchNorm1d(embedding),
        )

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Return unit embeddings [B, 512] of crops [B, 3, 112, 112], BGR in [-1, 1]."""
        return F.normalize(self.output_layer(self.body(self.input_layer(crops))), dim=1)

    def embed(self, crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the unit embedding [512] of an identity crop, RGB uint8 [112, 112, 3]."""
        device = next(self.parameters()).device
        bgr = torch.from_numpy(crop[..., ::-1].copy()).to(device, torch.float32)
        with torch.inference_mode():
            embedding = self((bgr / 127.5 - 1).permute(2, 0, 1)[None])
        return embedding[0].cpu().numpy()


def build_face_encoder(tensors: Mapping[str, torch.Tensor], path: Path) -> FaceEncoder:
    """Return the recogniser the tensors describe, holding them; they should be float32.

    A stage begins at the first unit and wherever the channels change, which is where a unit has
    a convolution in its shortcut.

    Raises:
        RowError: WEIGHTS, if a tensor is missing, unknown or misshapen.
    """
    # Counted in training, never read at inference, and some exports leave it out.
    kept = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    units = _unit_shapes(kept, path)
    with torch.device("meta"):
        encoder = FaceEncoder(
            units,
            stem=require_shape(kept, "input_layer.0.weight", path, axes=4)[0],
            embedding=require_shape(kept, "output_layer.3.weight", path, axes=2)[0],
            flat=flat_features(units),
        )
    expected = {
        name: shape
        for name, shape in shapes_of(encoder.state_dict()).items()
        if not name.endswith("num_batches_tracked")
    }
    check_shapes(shapes_of(kept), expected, path)
    encoder = encoder.to_empty(device="cpu")
    encoder.load_state_dict(kept, strict=False, assign=True)
    return encoder.eval().requires_grad_(False)


def _unit_shapes(tensors: Mapping[str, torch.Tensor], path: Path) -> list[UnitShape]:
    numbers = {int(m[1]) for name in tensors if (m := re.match(r"body\.(\d+)\.", name))}
    shapes: list[UnitShape] = []
    for index in range(max(1, len(numbers))):
        unit = f"body.{index}.res_layer"
        channels_out, channels_in, *_ = require_shape(tensors, f"{unit}.1.weight", path, axes=4)
        shapes.append(
            UnitShape(
                channels_in=channels_in,
                channels_out=channels_out,
                squeezed=require_shape(tensors, f"{unit}.5.fc1.weight", path, axes=4)[0],
                starts_stage=index == 0 or channels_in != channels_out,
            )
        )
    return shapes


def flat_features(units: Sequence[UnitShape]) -> int:
    """Return how many numbers the last unit leaves of a crop, for the head to read."""
    side = CROP_PX
    for unit in units:
        side = -(-side // unit.stride)
    return units[-1].channels_out * side * side
