"""Each kind of bad photo has its own answer; a good one arrives upright and in RGB."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lynx_engine.digest import digest_bytes
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.media.images import MAX_BYTES, inspect_photo, read_photo


def gradient(height: int = 8, width: int = 12) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 20, columns * 20, rows + columns], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels, "RGB")


def refusal(path: Path) -> str:
    with pytest.raises(RowError) as caught:
        inspect_photo(path)
    assert caught.value.code is ErrorCode.IMAGE
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_lossless_photo_keeps_every_pixel(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    gradient().save(path, lossless=True)
    assert np.array_equal(read_photo(path), np.asarray(gradient()))


def test_header_tells_digest_and_size(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    gradient(8, 12).save(path)
    header = inspect_photo(path)
    assert (header.width_px, header.height_px) == (12, 8)
    assert header.digest == digest_bytes(path.read_bytes())


def test_photo_turned_by_exif_is_read_upright(tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 90 degrees clockwise to view
    gradient(8, 12).save(path, exif=exif)
    assert np.array_equal(read_photo(path), np.rot90(np.asarray(gradient(8, 12)), k=-1))


def test_grey_and_palette_photos_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P"):
        path = tmp_path / f"{mode}.png"
        gradient().convert(mode).save(path)
        assert read_photo(path).shape == (8, 12, 3)


def test_opaque_alpha_is_dropped_and_partial_alpha_is_refused(tmp_path: Path) -> None:
    image = gradient().convert("RGBA")
    image.save(tmp_path / "opaque.png")
    assert np.array_equal(read_photo(tmp_path / "opaque.png"), np.asarray(gradient()))
    image.putalpha(200)
    image.save(tmp_path / "glass.png")
    with pytest.raises(RowError, match=r"glass\.png is partly transparent.*Flatten it"):
        read_photo(tmp_path / "glass.png")


def test_missing_photo_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.png").startswith(f"{tmp_path / 'no.png'} does not exist.")


def test_folder_is_not_a_photo(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} is a folder. Name a PNG, JPEG or WebP picture."


def test_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert "is not a regular file" in refusal(pipe)


def test_device_is_refused() -> None:
    assert "is not a regular file" in refusal(Path("/dev/zero"))


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert "is empty" in refusal(tmp_path / "empty.png")


def test_text_named_png_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("not a picture")
    assert "is not a PNG, JPEG or WebP picture" in refusal(tmp_path / "note.png")


def test_postscript_is_not_handed_to_ghostscript(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    assert "is not a PNG, JPEG or WebP picture" in refusal(tmp_path / "page.png")


def test_file_over_the_byte_limit_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1_000_000)
    assert "has 33 MB; the limit is 32 MB" in refusal(path)


def test_picture_over_the_pixel_limit_is_refused_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("1", (8000, 6000)).save(path)
    assert "has 48 megapixels; the limit is 40" in refusal(path)


def test_animated_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.webp"
    frames = [gradient(), gradient().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert "is animated" in refusal(path)


def test_cmyk_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    gradient().convert("CMYK").save(path)
    assert "has CMYK colours" in refusal(path)


def test_sixteen_bit_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600).save(path)
    assert "16 bits or more" in refusal(path)


def test_truncated_picture_is_refused_at_every_length(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    gradient(32, 32).save(whole)
    data = whole.read_bytes()
    cut = tmp_path / "cut.png"
    # The last 4 bytes are the checksum of an empty end chunk.
    for length in range(len(data) - 4):
        cut.write_bytes(data[:length])
        with pytest.raises(RowError) as caught:
            read_photo(cut)
        assert caught.value.code is ErrorCode.IMAGE


def test_damaged_exif_is_an_answer_not_an_accident(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient(64, 64).save(path, exif=exif)
    data = bytearray(path.read_bytes())
    start = data.index(b"Exif")
    for position in range(start, start + 60):
        for flip in (0x01, 0x80, 0xFF):
            data[position] ^= flip
            path.write_bytes(data)
            with contextlib.suppress(RowError):
                inspect_photo(path)
                assert read_photo(path).shape[2] == 3
            data[position] ^= flip


def test_header_is_read_without_decoding_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert inspect_photo(path).width_px == 64
    with pytest.raises(RowError, match=r"cut\.png is damaged"):
        read_photo(path)
