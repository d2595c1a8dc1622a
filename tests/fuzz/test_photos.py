"""A stranger's picture is opened or refused with a letter; none ends the process."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from tests.faults.harness import size
from tests.fuzz.watched import Reply, Watched, watched
from tests.support.jobs import astronaut

Figure = Callable[[str], None]
MOST_S, MOST_MB = 5.0, 1024.0


def sound_pictures() -> list[bytes]:
    """Return small pictures of every format and kind that are read."""
    pictures: list[bytes] = []
    with Image.open(astronaut()) as photo:
        small = photo.convert("RGB").resize((96, 96))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    for mode in ("RGB", "L", "P", "RGBA"):
        for options in (
            {"format": "PNG"},
            {"format": "PNG", "exif": exif},
            {"format": "WEBP", "quality": 80},
            {"format": "WEBP", "lossless": True, "exif": exif},
            {"format": "JPEG", "quality": 85},
            {"format": "JPEG", "progressive": True, "exif": exif},
        ):
            if options["format"] == "JPEG" and mode in {"P", "RGBA"}:
                continue
            file = io.BytesIO()
            small.convert(mode).save(file, **options)
            pictures.append(file.getvalue())
    return pictures


def mutated(data: bytes, random: Random) -> bytes:
    """Return a picture of which something was flipped, cut, doubled, overwritten or claimed."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at = random.randrange(max(1, len(changed)))
        kind = random.randrange(6)
        if kind == 0 and changed:
            changed[min(at, len(changed) - 1)] ^= 1 << random.randrange(8)
        elif kind == 1:
            del changed[at : at + random.randrange(1, 64)]
        elif kind == 2:
            changed[at:at] = changed[at : at + random.randrange(1, 64)]
        elif kind == 3:
            changed[at : at + 4] = struct.pack(">I", random.choice((0, 1, 2**31 - 1, 2**32 - 1)))
        elif kind == 4:
            del changed[at:]
        else:
            # Where headers lie.
            changed[:64] = bytes(
                random.randrange(256) if random.random() < 0.03 else byte for byte in changed[:64]
            )
    return _with_right_checksums(bytes(changed)) if random.random() < 0.5 else bytes(changed)


def _with_right_checksums(data: bytes) -> bytes:
    """Return a PNG whose chunks vouch for what they say now; another file as it is."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        if at + 12 + length > len(data):
            break
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + data[at:])


def claims() -> Iterator[bytes]:
    """Give pictures that claim a size they do not have, and some that are of another kind."""
    for width, height in ((65535, 65535), (40_000_000, 1), (2**31 - 1, 2**31 - 1), (0, 0), (1, 0)):
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        crc = struct.pack(">I", zlib.crc32(chunk))
        data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc
        squeezed = zlib.compress(b"\0" * 10**6)
        body = b"IDAT" + squeezed
        data += struct.pack(">I", len(squeezed)) + body + struct.pack(">I", zlib.crc32(body))
        yield data
    yield b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    yield b"GIF89a" + b"\0" * 64
    yield b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield b"RIFF\xff\xff\xff\xffWEBPVP8X"


def faults_of(reply: Reply) -> list[str]:
    """Return what is wrong with an answer to a picture."""
    faults = [] if reply.code in {0, 2} else [f"exit {reply.code}: {reply.err}"]
    faults += [f"{reply.cpu_s:.1f} s"] if reply.cpu_s > MOST_S else []
    faults += [f"{reply.peak_mb:.0f} MB"] if reply.peak_mb > MOST_MB else []
    faults += ["no letter"] if reply.code == 2 and "picture.bin " not in reply.err else []
    return faults


def look(child: Watched, data: bytes) -> Reply:
    path = child.folder / "picture.bin"
    path.write_bytes(data)
    return child.photo(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lynx.toml").touch()
    (tmp_path / "one.png").write_bytes(astronaut().read_bytes())
    return tmp_path


def test_mutated_pictures_are_opened_or_refused_and_no_process_dies(
    folder: Path, figure: Figure
) -> None:
    sound, random = sound_pictures(), Random(7)
    tried = size(quick=300, full=5000)
    opened, died, slowest_s, most_mb = 0, 0, 0.0, 0.0
    with watched(folder) as child:
        inputs = [*sound, *claims()]
        inputs += [mutated(random.choice(sound), random) for _ in range(tried)]
        for number, data in enumerate(inputs):
            reply = look(child, data)
            died += reply.code < 0
            faults = faults_of(reply)
            assert not faults, (number, faults, data[:200])
            opened += reply.code == 0
            slowest_s, most_mb = max(slowest_s, reply.cpu_s), max(most_mb, reply.peak_mb)
    assert opened >= len(sound)
    figure(
        f"FUZZ images tried={len(inputs)} opened={opened} refused={len(inputs) - opened} "
        f"died={died} slowest={slowest_s:.2f}s most_memory={most_mb:.0f}MB"
    )


def test_without_its_limit_a_picture_that_claims_too_much_takes_more(
    folder: Path, figure: Figure
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (13_000, 13_000)).save(file, format="PNG", compress_level=1)
    with watched(folder) as child:
        assert not faults_of(look(child, file.getvalue()))
    with watched(folder, "photo-limits") as child:
        assert faults_of(look(child, file.getvalue()))
    figure("MUTANT fuzz-photo-limits red")
