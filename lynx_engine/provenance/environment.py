"""What a clip was made with: versions and platform, read without importing the libraries.

The workspace key lives here too: records name a photo by a keyed digest, so that a log that
travels cannot be searched for a face.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import hmac
import os
import platform
import re
import secrets
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lynx_engine.errors import DamagedError, Problem
from lynx_engine.provenance.files import sync_folder

KEY_BYTES = 32
FILE_BYTES = KEY_BYTES + hashlib.sha256().digest_size
KEY_FILE = "workspace.key"


@dataclass(frozen=True, slots=True)
class Environment:
    """Versions of what shapes a clip; the fields are columns of the record."""

    engine_version: str
    commit: str
    python_version: str
    torch_version: str
    diffusers_version: str
    platform: str


@cache
def read_environment() -> Environment:
    """Return this process's environment."""
    return Environment(
        engine_version=_version("lynx_engine"),
        commit=read_commit(Path(__file__).resolve().parents[2]),
        python_version=platform.python_version(),
        torch_version=_version("torch"),
        diffusers_version=_version("diffusers"),
        platform=f"{platform.system()} {platform.machine()}",
    )


_DRIVER = Path("/proc/driver/nvidia/version")
_DRIVER_LINE = re.compile(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", re.MULTILINE)


def driver_version(device: str) -> str:
    """Return the version of the driver behind torch's `device`; "" for a CPU, or if nobody knows.

    The kernel module tells it; where containers or WSL hide that, NVIDIA's management library does.
    """
    return _nvidia_driver() if device.startswith("cuda") else ""


@cache
def _nvidia_driver() -> str:
    with contextlib.suppress(OSError):
        if found := _DRIVER_LINE.search(_DRIVER.read_text(errors="replace")):
            return found[1]
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libnvidia-ml.so.1")
        words = ctypes.create_string_buffer(80)  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE
        if library.nvmlInit_v2() == 0:
            try:
                if library.nvmlSystemGetDriverVersion(words, len(words)) == 0:
                    return words.value.decode("ascii", errors="replace")
            finally:
                library.nvmlShutdown()
    return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def read_commit(root: Path) -> str:
    """Return the commit checked out in `root`, "" if none is; git need not be installed."""
    git = root / ".git"
    try:
        if git.is_file():  # a linked worktree: its HEAD lies there, branches in the folder of all
            git = root / git.read_text().strip().removeprefix("gitdir: ")
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        ref = head.removeprefix("ref: ")
        if (git / "commondir").is_file():
            git = git / (git / "commondir").read_text().strip()
        if (git / ref).is_file():
            return (git / ref).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {ref}")), "")
    except OSError:
        return ""


def read_workspace_key(state_dir: Path) -> bytes | None:
    """Return the workspace's secret key, or None if no run made one yet.

    The file holds the key and its sha256: with a changed key, every photo would be another one.

    Raises:
        DamagedError: If the file is not a key: an empty one would make every digest searchable.
    """
    path = state_dir / KEY_FILE
    if not path.exists():
        return None
    data = path.read_bytes()
    key = data[:KEY_BYTES]
    if len(data) == KEY_BYTES:
        return key  # made before the digest came; or cut right behind the key, which is whole
    if len(data) != FILE_BYTES:
        text = f"holds {len(data)} bytes, a workspace key has {FILE_BYTES}."
    elif data != _with_digest(key):
        text = "its bytes are not those that were written."
    else:
        return key
    advice = "Put it back as it was, or delete it: photos of past records are not known again then."
    raise DamagedError("The workspace key is damaged", [Problem(str(path), text)], advice)


def _with_digest(key: bytes) -> bytes:
    return key + hashlib.sha256(key).digest()


def make_workspace_key(state_dir: Path) -> bytes:
    """Return the workspace's secret key, made on first use, readable by its owner alone.

    Raises:
        DamagedError: As `read_workspace_key`.
        OSError: If the state folder cannot be written.
    """
    path = state_dir / KEY_FILE
    if not path.exists():
        state_dir.mkdir(parents=True, exist_ok=True)
        temp = path.with_name(f".{KEY_FILE}.{secrets.token_hex(8)}")
        descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_with_digest(secrets.token_bytes(KEY_BYTES)))
            file.flush()
            os.fsync(file.fileno())
        # A link, not a rename: of two processes that race here, the first one's key stays.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temp)
        temp.unlink()
        sync_folder(state_dir)
    key = read_workspace_key(state_dir)
    if key is None:
        raise FileNotFoundError(errno.ENOENT, "the key was deleted while it was made", str(path))
    return key


def keyed_digest(digest: str, key: bytes) -> str:
    """Return the HMAC-SHA256 (RFC 2104) of a photo's digest; "" stays ""."""
    return hmac.new(key, digest.encode(), hashlib.sha256).hexdigest() if digest else ""
