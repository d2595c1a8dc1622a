"""Looks for what must not be on a disk: the bytes of an embedding or crop, a digest, a sentence."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

WINDOW_BYTES = 16
Needles = Mapping[str, Sequence[bytes]]
"""Kind -> byte strings, any one of which is a trace of it."""


def embedding_needles(embedding: npt.NDArray[np.float32]) -> list[bytes]:
    """Return traces of an embedding: any four of its numbers in a row, raw, base64 or as text."""
    raw = embedding.astype("<f4").tobytes()
    return [*_windows(raw, step=4), *_in_base64(raw), *_in_text(embedding)]


def crop_needles(crop: npt.NDArray[np.uint8]) -> list[bytes]:
    """Return traces of a picture: pieces of its rows, raw and base64, that are not one colour."""
    rows = [row.tobytes() for row in crop[:: max(len(crop) // 32, 1)]]
    return [
        needle
        for row in rows
        for needle in (*_windows(row, step=97), *_in_base64(row[:60]))
        if len(set(needle)) > 6
    ]


def digest_needles(digest: str) -> list[bytes]:
    """Return traces of a digest: half of it in hex, raw or base64."""
    raw = bytes.fromhex(digest)
    half = len(digest) // 2
    texts = [digest[:half], digest[half:]]
    return [
        *(text.encode() for text in texts),
        *(text.upper().encode() for text in texts),
        raw[:WINDOW_BYTES],
        raw[WINDOW_BYTES:],
        *_in_base64(raw),
    ]


def _windows(raw: bytes, *, step: int) -> list[bytes]:
    last = len(raw) - WINDOW_BYTES
    return [raw[at : at + WINDOW_BYTES] for at in range(0, last + 1, step)]


def _in_base64(raw: bytes) -> Iterator[bytes]:
    # Where it begins in what was encoded decides which of three forms it has.
    for before in range(3):
        text = base64.b64encode(bytes(before) + raw).rstrip(b"=")[4:-4]
        yield from (text[at : at + 20] for at in range(0, len(text) - 19, 64))


def _in_text(embedding: npt.NDArray[np.float32]) -> list[bytes]:
    # Without the last digit, which depends on how many the writer gives.
    numbers = [abs(number) for number in embedding[:8].tolist()]
    plain = [f"{number:.7f}"[:-1] for number in numbers]
    scientific = [f"{number:.6e}".partition("e")[0][:-1] for number in numbers]
    return [text.encode() for text in (*plain, *scientific)]


@dataclass(frozen=True, slots=True)
class Trace:
    """A needle that was found."""

    kind: str
    path: Path


def find_traces(root: Path, needles: Needles) -> list[Trace]:
    """Return every file below `root` that holds a needle in its bytes or its name."""
    found: list[Trace] = []
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
        held = path.read_bytes() + str(path.relative_to(root)).encode()
        found += [
            Trace(kind, path)
            for kind, wanted in needles.items()
            if any(needle in held for needle in wanted)
        ]
    return found


def count_traces(root: Path, needles: Needles) -> Counter[str]:
    """Return how many files hold a needle of each kind, 0 for those of none."""
    counted = Counter(dict.fromkeys(needles, 0))
    counted.update(trace.kind for trace in find_traces(root, needles))
    return counted
