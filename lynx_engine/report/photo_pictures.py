"""Draws what was found in a subject photo: boxes, landmarks and numbers, and the two crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lynx_engine.errors import RowError
from lynx_engine.identity.align import identity_crop, reference_crop
from lynx_engine.media.images import read_photo

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

    from lynx_engine.identity.detect import Face
    from lynx_engine.preflight import PhotoReport

PHOTO_SIDE_PX = 480
"""The longer side of a drawn photo; a small one is enlarged to it, at most four times."""

# Told apart without colour too: the chosen face is drawn thicker and its number is marked.
_CHOSEN, _OTHER = (0, 200, 110), (255, 160, 0)
_LARGEST_SCALE = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class PhotoPictures:
    """Pictures of one photo, RGB.

    Attributes:
        photo: The photo, with all found faces drawn, its longer side `PHOTO_SIDE_PX` at most.
        identity: The 112 px crop that the recogniser sees, or None without a chosen face.
        reference: The 256 px crop of the reference adapter, or None.
    """

    photo: Image.Image
    identity: Image.Image | None
    reference: Image.Image | None


def draw_pictures(report: PhotoReport) -> PhotoPictures | None:
    """Return the pictures of a photo, or None if it was not or cannot be looked at."""
    from PIL import Image, ImageDraw

    found = report.found
    if found is None:
        return None
    try:
        pixels = read_photo(report.photo)
    except RowError:
        return None  # removed since it was looked at
    scale = min(PHOTO_SIDE_PX / max(pixels.shape[:2]), _LARGEST_SCALE)
    size = tuple(max(round(side * scale), 1) for side in (pixels.shape[1], pixels.shape[0]))
    photo = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(photo)
    for number, face in enumerate(found.faces):
        _draw_face(pen, face, number, scale=scale, is_chosen=number == report.chosen)
    if report.chosen is None:
        return PhotoPictures(photo, None, None)
    landmarks = found.faces[report.chosen].landmarks
    return PhotoPictures(
        photo,
        Image.fromarray(identity_crop(pixels, landmarks)),
        Image.fromarray(reference_crop(pixels, landmarks)),
    )


def _draw_face(
    pen: ImageDraw.ImageDraw, face: Face, number: int, *, scale: float, is_chosen: bool
) -> None:
    from PIL import ImageFont

    colour = _CHOSEN if is_chosen else _OTHER
    left, top, right, bottom = (side * scale for side in face.box)
    # A dark line around the coloured one: it shows on any photo.
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0, 0, 0))
    pen.rectangle((left, top, right, bottom), outline=colour, width=4 if is_chosen else 2)
    for x, y in face.landmarks * scale:
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline=(0, 0, 0))
    font = ImageFont.load_default(size=18)
    text = f" {number} chosen " if is_chosen else f" {number} "
    width, height = pen.textlength(text, font), 22
    # Above the box, or in its corner where the photo ends there.
    x, y = max(left, 0), top - height if top >= height else max(top, 0)
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.text((x, y), text, fill=(0, 0, 0), font=font)
