"""Draws the contact sheet as one picture, for where no page can be opened."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lynx_engine.report.photo_pictures import PhotoPictures
from lynx_engine.report.texts import visible

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

    from lynx_engine.preflight import PhotoReport

MAX_PHOTOS = 100
"""Photos in the picture: some 30,000 px of height. The page has them all."""

_WIDTH_PX, _CARD_PX, _BARE_CARD_PX, _PAD_PX = 1320, 296, 150, 20
_PHOTO_PX = (400, 256)
_CROPS_X = 440
_TEXT_X, _LINE_PX, _LINE_CHARACTERS = 850, 19, 62
_INK, _SOFT, _LINE, _PAPER = (29, 33, 37), (91, 100, 109), (217, 222, 227), (255, 255, 255)
_VERDICT_COLOURS = {"good": (11, 107, 58), "poor": (138, 82, 0), "refused": (179, 38, 30)}


def draw_sheet(campaign: str, cards: Sequence[tuple[PhotoReport, PhotoPictures | None]]) -> bytes:
    """Return a PNG with a strip for each photo: the photo, its crops, the verdict.

    Args:
        campaign: The campaign's name.
        cards: Each photo with its pictures, or None where there is none to show.
    """
    from PIL import Image, ImageDraw, ImageFont

    shown = cards[:MAX_PHOTOS]
    heights = [_BARE_CARD_PX if pictures is None else _CARD_PX for _, pictures in shown]
    top = 64
    sheet = Image.new("RGB", (_WIDTH_PX, top + sum(heights)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    title = f"Subjects of {campaign}"
    if len(cards) > len(shown):
        title += f": the first {len(shown)} of {len(cards)} photos; subjects.html has them all"
    pen.text((_PAD_PX, 18), _drawable(title), _INK, ImageFont.load_default(size=24))
    for (report, pictures), height in zip(shown, heights, strict=True):
        _draw_card(sheet, pen, report, pictures, top=top)
        top += height
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def _draw_card(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    report: PhotoReport,
    pictures: PhotoPictures | None,
    *,
    top: int,
) -> None:
    from PIL import ImageFont

    pen.line((_PAD_PX, top, _WIDTH_PX - _PAD_PX, top), _LINE)
    top += _PAD_PX
    if pictures is None:
        pen.text((_PAD_PX, top), "not shown", _SOFT, ImageFont.load_default(size=16))
    else:
        photo = pictures.photo.copy()
        photo.thumbnail(_PHOTO_PX)
        sheet.paste(photo, (_PAD_PX, top))
        if pictures.reference is not None:
            sheet.paste(pictures.reference, (_CROPS_X, top))
        if pictures.identity is not None:
            sheet.paste(pictures.identity, (_CROPS_X + 272, top))
    most_lines = ((_CARD_PX if pictures is not None else _BARE_CARD_PX) - 60) // _LINE_PX
    _write_text(pen, report, top=top, most_lines=most_lines)


def _write_text(
    pen: ImageDraw.ImageDraw, report: PhotoReport, *, top: int, most_lines: int
) -> None:
    from PIL import ImageFont

    large, small = ImageFont.load_default(size=20), ImageFont.load_default(size=15)
    heading = _drawable(report.subject)
    pen.text((_TEXT_X, top), heading, _INK, large)
    beside = _TEXT_X + pen.textlength(f"{heading}  ", large)
    pen.text((beside, top), report.verdict, _VERDICT_COLOURS[report.verdict], large)
    texts = [str(report.photo)]
    if (measures := report.measures) is not None:
        texts.append(
            f"{measures.size_px:.0f} px, sharpness {measures.sharpness:.2f}, turned "
            f"{measures.turn_deg:+.0f}, leaning {measures.tilt_deg:+.0f} degrees, "
            f"light {measures.mean_luma:.0f}"
        )
    texts += [report.reason] * bool(report.reason)
    texts += [advice.text for advice in report.advice]
    lines = [
        line
        for text in texts
        for line in textwrap.wrap(_drawable(text), _LINE_CHARACTERS, break_long_words=True)
    ]
    if len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], "... subjects.html says more"]
    for number, line in enumerate(lines):
        colour = _SOFT if number == 0 else _INK
        pen.text((_TEXT_X, top + 32 + number * _LINE_PX), line, colour, small)


def _drawable(text: str) -> str:
    """Return text in letters that Pillow's own font has."""
    return visible(text).encode("latin-1", "backslashreplace").decode("latin-1")
