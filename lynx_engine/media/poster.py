"""One frame of a clip as a small JPEG, for pages that show many clips. It knows frames only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LONG_SIDE_PX = 480
_QUALITY = 80
# Of a clip's length: its first and last moments tell least of it.
_MOMENTS = (0.5, 0.35, 0.65)


def write_poster(frames: npt.NDArray[np.uint8], path: Path) -> None:
    """Write the sharpest of three frames around the middle, as JPEG without metadata.

    Args:
        frames: RGB uint8 [F, H, W, 3], one at least.
        path: A file that is not there yet; its owner alone may read it.

    Raises:
        OSError: If something is there, or the disk refuses; no half file is left then.
    """
    from PIL import Image

    frame = frames[_sharpest(frames)]
    picture = Image.fromarray(frame)
    picture.thumbnail((LONG_SIDE_PX, LONG_SIDE_PX), Image.Resampling.LANCZOS)
    # Nobody else's file or link can stand under this name.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            picture.save(file, format="JPEG", quality=_QUALITY, optimize=True)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sharpest(frames: npt.NDArray[np.uint8]) -> int:
    """Return the index of the frame with the steepest edges, of equal ones the middle one."""
    import numpy as np

    def detail(at: int) -> float:
        levels = frames[at].astype(np.int32)
        return sum(float(np.square(np.diff(levels, axis=axis)).sum()) for axis in (0, 1))

    return max((int(moment * len(frames)) for moment in _MOMENTS), key=detail)
