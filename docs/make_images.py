"""Draws docs/quickstart.png from the rendered quick start: `python docs/make_images.py`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from lynx_engine.media.video import find_ffmpeg

ROOT = Path(__file__).resolve().parents[1]
SIDE_PX = 64
SHOWN_FRAMES = (0, 4, 8)


def frames_of(clip: Path) -> np.ndarray:
    """Return a clip's frames, RGB uint8 [F, 64, 64, 3]."""
    command = [find_ffmpeg(), "-v", "error", "-i", str(clip), "-f", "rawvideo", "-pix_fmt", "rgb24"]
    raw = subprocess.run([*command, "pipe:"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, SIDE_PX, SIDE_PX, 3)


def main() -> None:
    """Put three frames of every second clip side by side, twice their size."""
    clips = sorted((ROOT / "outputs/quickstart/clips").glob("*.mp4"))[::2]
    rows = [np.concatenate([frames_of(clip)[n] for n in SHOWN_FRAMES], axis=1) for clip in clips]
    sheet = np.concatenate(
        [np.concatenate(rows[0:2], axis=1), np.concatenate(rows[2:4], axis=1)], axis=0
    )
    picture = Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), 0)
    picture.save(ROOT / "docs/quickstart.png", optimize=True)


if __name__ == "__main__":
    main()
