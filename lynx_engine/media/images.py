"""Reads subject photos: what a file claims from its header, then its pixels. It knows no faces.

A photo is refused rather than repaired, each fault in its own words. Limits are checked on the
header, before any pixel is decoded: Pillow itself only warns up to 179 megapixels (1.4 GB).
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.digest import digest_bytes
from lynx_engine.errors import ErrorCode, RowError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 32_000_000
MAX_PIXELS = 40_000_000
# "1" is black and white, "L" grey, "P" a palette; each has one meaning in RGB.
_PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "RGBA", "LA"})


@dataclass(frozen=True, slots=True)
class PhotoHeader:
    """What a photo's file says before its pixels are decoded.

    Attributes:
        digest: sha256 of the file's bytes.
        width_px: Width as stored, before any EXIF rotation.
        height_px: Height as stored.
    """

    digest: str
    width_px: int
    height_px: int


def inspect_photo(path: Path) -> PhotoHeader:
    """Read a photo's header and digest.

    Raises:
        RowError: With code `image`, if the file is not a still RGB or grey PNG, JPEG or WebP
            within the limits; the message names the fault and what to do.
    """
    data = _read_regular_file(path)
    with _open(data, path) as image:
        return PhotoHeader(digest_bytes(data), image.width, image.height)


def read_photo(path: Path, *, digest: str = "") -> npt.NDArray[np.uint8]:
    """Decode a photo: RGB, uint8, [H, W, 3], turned as its EXIF asks.

    Args:
        path: The photo.
        digest: sha256 that its bytes had before; "" takes any.

    Raises:
        RowError: With code `image`, as `inspect_photo`, or if the pixels are damaged, or the bytes
            are no longer those of `digest`.
    """
    import numpy as np
    from PIL import ImageOps

    data = _read_regular_file(path)
    if digest and digest_bytes(data) != digest:
        raise _refuse(path, "changed after the campaign was planned. Run the command again.")
    with (
        _open(data, path) as checked,
        _open(data, path) as image,
        warnings.catch_warnings(),
    ):
        # Corrupt EXIF is worth a warning to Pillow; it is never copied, and only turns the photo.
        warnings.simplefilter("ignore")
        try:
            checked.verify()  # PNG checksums, which decoding passes over
            upright = ImageOps.exif_transpose(image)
            has_alpha = "A" in upright.getbands() or "transparency" in upright.info
            if has_alpha and np.asarray(upright.convert("RGBA").getchannel("A")).min() < 255:
                raise _refuse(
                    path,
                    "is partly transparent, so what shows behind it is undefined. "
                    "Flatten it onto a background and save it again.",
                )
            return np.asarray(upright.convert("RGB"), dtype=np.uint8)
        except RowError:
            raise
        except Exception as error:
            # A damaged file leads Pillow's readers into errors of every kind (found by fuzzing:
            # TypeError, KeyError and struct.error from EXIF beside the usual ones).
            raise _refuse(
                path, f"is damaged ({error}). Export it again from its source."
            ) from error


def _refuse(path: Path, fault: str) -> RowError:
    return RowError(ErrorCode.IMAGE, f"{path} {fault}")


def _read_regular_file(path: Path) -> bytes:
    """Return the bytes of a regular file; never wait on a pipe or read a device."""
    try:
        # O_NONBLOCK: opening a named pipe nobody writes to would otherwise wait forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _refuse(
            path, "does not exist. Check the path; it is read from the manifest's folder."
        ) from None
    except OSError as error:
        raise _refuse(path, f"cannot be opened ({error.strerror}).") from None
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
        raise _refuse(path, f"is {kind}. Name a PNG, JPEG or WebP picture.")
    with os.fdopen(descriptor, "rb") as file:
        if facts.st_size > MAX_BYTES:
            raise _refuse(
                path,
                f"has {facts.st_size / 1e6:.0f} MB; the limit is {MAX_BYTES / 1e6:.0f} MB. "
                "Save it smaller; a face needs a few hundred pixels.",
            )
        if facts.st_size == 0:
            raise _refuse(path, "is empty. Export it again from its source.")
        return file.read(MAX_BYTES + 1)


def _open(data: bytes, path: Path) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, where our limit is lower, and of corrupt EXIF, which
            # is never copied.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise _refuse(
            path, "is not a PNG, JPEG or WebP picture. Convert it to one of these."
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _refuse(path, f"has a damaged header ({error}). Export it again.") from None
    _check_header(image, path)
    return image


def _check_header(image: Image.Image, path: Path) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise _refuse(
            path,
            f"has {pixels / 1e6:.0f} megapixels; the limit is {MAX_PIXELS // 1_000_000}. "
            "Save it smaller; a face needs a few hundred pixels.",
        )
    if getattr(image, "n_frames", 1) > 1:
        raise _refuse(path, "is animated. Save one frame of it as a still picture.")
    if image.mode == "CMYK":
        raise _refuse(path, "has CMYK colours. Convert it to RGB (sRGB) and save it again.")
    if image.mode not in _PLAIN_MODES:
        raise _refuse(
            path, f"has {image.mode} pixels (16 bits or more). Save it with 8 bits a channel."
        )
