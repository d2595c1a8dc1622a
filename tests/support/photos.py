"""Real faces to test with: the portrait, and pictures that lie inside installed packages."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def _package(name: str) -> Path:
    spec = find_spec(name)  # without importing it
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def group_photo() -> Path:
    """Six people around a table, from the left: read from its package, never copied."""
    return _package("insightface") / "data/images/t1.jpg"


def other_portrait() -> Path:
    """One man, a little turned to the right of the picture, in 112 x 112 px."""
    return _package("insightface") / "data/images/Tom_Hanks_54745.png"


def mean_head() -> Path:
    """The mean 3-D landmarks of many heads, float [68, 3]: x right, y down, z to the viewer."""
    return _package("insightface") / "data/objects/meanshape_68.pkl"


@cache
def pixels(path: Path) -> Pixels:
    """Return a photo's pixels, RGB uint8 [H, W, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.uint8)
