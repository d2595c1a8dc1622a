"""Fetches one file over HTTP, so that it can be continued after a kill at any byte.

huggingface_hub 2.4 fetches into a file named anew by each process and deletes it when it stops
(`file_download._download_to_tmp_and_move`): of a 5 GB shard that breaks off, nothing is left. Its
client, headers and addresses are used here, and the half-fetched file is kept.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from lynx_engine.errors import DamagedError, Problem, pausing
from lynx_engine.weights.lock import sync_folder
from lynx_engine.weights.sources import RemoteFile, answer_letter, headers_for, unreachable

OnBytes = Callable[[int], None]
"""Told how many bytes of the file are on disk now."""

_TRIES = 5
_FIRST_PAUSE_S = 1.0
_CHUNK_BYTES = 1 << 20


def part_of(target: Path, file: RemoteFile) -> Path:
    """Return where the bytes of a file lie until all are here and checked."""
    return target.with_name(f".{target.name}.{file.key[:16] or 'unknown'}.part")


def parts_beside(target: Path) -> list[Path]:
    """Return the half-fetched files of a target, of whichever bytes."""
    return sorted(target.parent.glob(f".{target.name}.*.part")) if target.parent.is_dir() else []


def fetch(file: RemoteFile, target: Path, on_bytes: OnBytes) -> Path:
    """Fetch all bytes of `file` beside `target`, going on from what is there.

    A connection that breaks is made again, up to five times in a row without a new byte.

    Args:
        file: What to fetch.
        target: Where it belongs; it is not touched.
        on_bytes: Told of progress.

    Returns:
        The file with all bytes, forced to disk, not yet checked.

    Raises:
        PausedError: If the network or the disk gives up; what came stays for the next time.
        RefusedError: If the source does not give the file.
        DamagedError: If the source holds fewer bytes than it says.
    """
    import httpx2

    part = part_of(target, file)
    with pausing(part):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not file.key:
            part.unlink(missing_ok=True)
        failures, most = 0, _size(part)
        while True:
            try:
                status = _continue(file, part, on_bytes)
                fault: Exception | int | None = None if status in {200, 206} else status
            except httpx2.RequestError as error:
                fault = error
            if fault is None and (file.size is None or _size(part) == file.size):
                break
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures >= _TRIES or (isinstance(fault, int) and not _may_pass(fault)):
                raise _letter(file, fault)
            if failures:
                time.sleep(_FIRST_PAUSE_S * 2 ** (failures - 1))
        with part.open("rb") as whole:
            os.fsync(whole.fileno())
    return part


def _continue(file: RemoteFile, part: Path, on_bytes: OnBytes) -> int:
    """Ask for what is missing, and append it as it comes; return the answer's status."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    have = _size(part)
    if file.size is not None and have >= file.size:
        if have == file.size:
            return 200
        part.unlink()  # of other bytes: no file has more than its own
        have = 0
    headers = dict(headers_for(file))
    if have:
        headers["Range"] = f"bytes={have}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream(
        "GET", file.url, headers=headers, timeout=timeout, follow_redirects=True
    ) as response:
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            told = f"its source holds no byte after the first {have}, and said {file.size}"
            raise DamagedError("A download was refused", [Problem(file.name, told)])
        if response.status_code not in {200, 206}:
            return response.status_code
        begins = response.headers.get("Content-Range", "").partition("-")[0]
        goes_on = response.status_code == 206 and begins == f"bytes {have}"
        # Unbuffered: what was received is on its way to disk whenever the process dies.
        with part.open("ab" if goes_on else "wb", buffering=0) as out:
            written = have if goes_on else 0
            on_bytes(written)
            for chunk in response.iter_raw():
                left = memoryview(chunk)
                while left:
                    left = left[out.write(left) :]
                written += len(chunk)
                on_bytes(written)
        return response.status_code


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _may_pass(status: int) -> bool:
    return status in {408, 429} or status >= 500


def _letter(file: RemoteFile, fault: Exception | int | None) -> Exception:
    if isinstance(fault, int):
        return answer_letter(file.name, file.url, fault)
    reason = fault or ConnectionError("the connection was closed before the end")
    return unreachable(file.name, file.url, reason)


def git_blob_of(path: Path) -> str:
    """Return git's id of a file's bytes: sha1 of "blob", size, NUL and bytes.

    Raises:
        OSError: If it cannot be read.
    """
    blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            blob.update(chunk)
    return blob.hexdigest()


def put_in_place(part: Path, target: Path) -> None:
    """Give a fetched and checked file its name, and forget other halves of it.

    Raises:
        OSError: If the disk refuses.
    """
    part.replace(target)
    for other in parts_beside(target):
        other.unlink(missing_ok=True)
    sync_folder(target.parent)
