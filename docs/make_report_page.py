"""Draws docs/report.png: the report of a made night. `python -m docs.make_report_page`.

Needs a Chromium. The records are made, not rendered, and the clips are moving bars of many colours:
people are not to be had without the big weights.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from lynx_engine.media.poster import write_poster
from lynx_engine.report.html import write_report
from lynx_engine.settings import Settings
from lynx_engine.survey import POSTERS_FOLDER, poster_name
from tests.support.browser import chromium, visit
from tests.support.logs import make_media, night, place_media, write_log

ROOT = Path(__file__).resolve().parents[1]
CAMPAIGN = "autumn"
ROWS = 30
SIZE = {"width": 1400, "height": 1560}


def hills(number: int) -> np.ndarray:
    """Return a made landscape as frames: RGB, uint8, [1, 288, 480, 3]."""
    dice = np.random.default_rng(number)
    height, width = 288, 480
    down, across = np.mgrid[0:height, 0:width]
    sky, land = dice.integers(90, 230, 3), dice.integers(20, 110, 3)
    light = (1 - down / height)[..., None] * 60
    picture = np.broadcast_to(sky, (height, width, 3)) + light - 30
    for layer in range(1, 4):
        a, b, c = dice.uniform(0, 6.3, 3)
        crest = np.sin(across / 60 + a) * 18 + np.sin(across / 23 + b) * 7 + np.sin(c) * 9
        below = down > height * (0.35 + 0.17 * layer) + crest
        picture = np.where(below[..., None], land * (1.5 - 0.3 * layer), picture)
    return picture.clip(0, 255).astype(np.uint8)[None]


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as temp, chromium() as browser:
        folder = Path(temp) / "outputs" / CAMPAIGN
        media = make_media(Path(temp) / "media")
        records = night(CAMPAIGN, ROWS, media)
        write_log(folder, records)
        place_media(folder, records, media)
        for number, clip in enumerate(sorted({r.clip for r in records if r.clip})):
            poster = folder / POSTERS_FOLDER / poster_name(clip)
            poster.unlink()
            write_poster(hills(number), poster)
        page = write_report(CAMPAIGN, settings=Settings(workspace=Path(temp)))
        shot = Path(temp) / "page.png"
        with visit(browser, page, viewport=SIZE) as seen:
            seen.page.select_option("[data-group]", "prompt")
            seen.page.wait_for_timeout(500)
            seen.page.screenshot(path=shot)
        Image.open(shot).convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(
            ROOT / "docs" / "report.png", optimize=True
        )


if __name__ == "__main__":
    main()
