"""Content digests: one canonical form for values, one streaming form for files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

_CHUNK_BYTES = 1 << 20
_SAMPLE_BYTES = 4096
_SAMPLES = 64
# Made once: json.dumps would build an encoder for each of a hundred thousand jobs.
_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def digest_mapping(value: Mapping[str, object]) -> str:
    """Return the sha256 of `value` as canonical JSON: sorted keys, no spaces, UTF-8.

    Floats are written by `repr`, so equal numbers give equal digests on every machine.
    """
    return digest_text(canonical_text(value))


def canonical_text(value: object) -> str:
    """Return `value` as canonical JSON: what `digest_mapping` digests."""
    return _CANONICAL.encode(value)


def digest_text(text: str) -> str:
    """Return the sha256 of a text in UTF-8, half surrogate pairs included."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_bytes(data: bytes | memoryview) -> str:
    """Return the sha256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the sha256 of a whole file, read in 1 MB pieces.

    Raises:
        OSError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sample_file(path: Path) -> str:
    """Return a sha256 over a file's size and 64 pieces of 4 KB spread evenly over it.

    Tells two weight files of one shape apart in a millisecond where a whole digest of 60 GB
    takes minutes. It does not detect damage: `digest_file` does.

    Raises:
        OSError: If the file cannot be read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    last = max(size - _SAMPLE_BYTES, 0)
    with path.open("rb") as file:
        for index in range(_SAMPLES):
            file.seek(last * index // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
