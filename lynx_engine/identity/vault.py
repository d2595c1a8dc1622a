"""Keeps what was computed of a face, encrypted, for every campaign of the workspace; for a while.

It knows bytes: what an entry holds, and of what it was computed, is its caller's business. A photo
has a folder of its own and a key of its own; with the key gone, copies of the rest tell nothing.
Nothing here names a photo by its digest: folders and files are named by keyed digests (HMAC).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import struct
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.identity.private_files import is_folder, make_folder, read_file, remove, write_file
from lynx_engine.manifest.names import check_name
from lynx_engine.provenance.environment import keyed_digest, make_workspace_key
from lynx_engine.provenance.files import sync_folder

if TYPE_CHECKING:
    from lynx_engine.settings import Settings

logger = logging.getLogger(__name__)

FOLDER = "faces"
"""The vault's place in the state folder."""
KEY_FILE = "key"
ENTRY_SUFFIX = ".face"
NAME_SUFFIX = ".name"

_LOCK_FILE = ".lock"
_KEY_BYTES = 32
_DAY_MS = 86_400_000
# Format and version, then the time of creation in milliseconds since 1970 (UTC).
_HEADER = struct.Struct(">8sQ")
_FORMAT = b"lynxface"
_NONCE_BYTES = 12
# Two machines that share a disk may differ by this; an entry from later on has a wrong time.
_CLOCK_SLACK_MS = 60_000


@dataclass(frozen=True, slots=True)
class KeptPhoto:
    """A photo of whose face something is kept.

    Attributes:
        folder: Its folder; the name is the keyed digest of the photo.
        names: What subjects were called that showed it, sorted.
        entries: How many things are kept of it.
        size_bytes: Of all its files.
    """

    folder: Path
    names: tuple[str, ...]
    entries: int
    size_bytes: int


class Vault:
    """Encrypted entries of photos; safe to use from several threads and processes.

    Each entry is AES-256-GCM under the photo's own key, with the photo's digest, the entry's text
    and the time of creation authenticated: one that was cut, changed or put in another's place is
    found out when it is asked for, and removed.
    """

    def __init__(self, folder: Path, *, workspace_key: bytes, days: float) -> None:
        """Keep entries in `folder` for `days` from when each was made; nothing is opened yet."""
        self._root = folder
        self._workspace_key = workspace_key
        self._life_ms = days * _DAY_MS

    def get(self, photo_digest: str, entry: str) -> bytes | None:
        """Return what was put, or None if it is absent, expired or damaged.

        What is damaged is named in a warning and removed; what is expired is removed.

        Args:
            photo_digest: sha256 of the photo's bytes.
            entry: Everything the data depends on beside the photo.

        Raises:
            RefusedError: If something that is no folder stands in the vault's way.
        """
        folder = self._folder(photo_digest)
        path = folder / self._entry_name(entry)
        try:
            if not (is_folder(self._root) and is_folder(folder)):
                return None
            if (sealed := read_file(path)) is None or (key := read_file(folder / KEY_FILE)) is None:
                return None
        except OSError as error:
            logger.warning("%s is not read (%s): its face is looked at anew", path, error.strerror)
            return None
        if not _is_key(key):
            self._remove(folder / KEY_FILE, key)
            return None
        data = _unseal(key[:_KEY_BYTES], sealed, _label(photo_digest, entry))
        if data is None:
            self._remove(path, sealed)
        elif self._is_expired(sealed):
            self._remove(path, sealed, damaged=False)
            data = None
        return data

    def put(self, photo_digest: str, entry: str, data: bytes, *, name: str) -> None:
        """Keep `data`, durably; an entry of the same text is replaced.

        Args:
            photo_digest: sha256 of the photo's bytes.
            entry: Everything the data depends on beside the photo.
            data: Any bytes.
            name: The subject's name, a checked label; remembered, so that `forget` finds it.

        Raises:
            RefusedError: If something that is no folder stands in the vault's way.
            OSError: If the disk refuses; nothing that was kept is lost then.
            ValueError: If `name` is no label.
        """
        check_name(name)
        make_folder(self._root)
        with self._alone():
            folder = self._folder(photo_digest)
            make_folder(folder)
            # The name first: whatever dies when, no face is kept that its name does not find.
            _remember(folder, name)
            key = self._key_of(folder)
            sync_folder(folder)
            sync_folder(self._root)
            sealed = _seal(key, data, _label(photo_digest, entry))
            write_file(folder / self._entry_name(entry), sealed)

    def remember(self, photo_digest: str, name: str) -> None:
        """Remember one more name of a photo, if anything is kept of it.

        Raises:
            RefusedError: If something that is no folder stands in the vault's way.
            OSError: If the disk refuses.
        """
        folder = self._folder(photo_digest)
        if not (is_folder(self._root) and is_folder(folder)) or _name_file(folder, name).exists():
            return
        with self._alone():
            if (folder / KEY_FILE).exists():
                _remember(folder, name)
                sync_folder(folder)

    def photo(self, photo_digest: str) -> str:
        """Return the name of a photo's folder, whether it is there or not."""
        return self._folder(photo_digest).name

    def kept(self) -> tuple[KeptPhoto, ...]:
        """Return every photo that has a folder here, also one whose forgetting was cut short.

        Raises:
            RefusedError: If something that is no folder stands in the vault's way.
            OSError: If a folder cannot be listed.
        """
        found: list[KeptPhoto] = []
        for folder in self._folders():
            with contextlib.suppress(FileNotFoundError):  # forgotten by another process meanwhile
                files = sorted(folder.iterdir())
                found.append(
                    KeptPhoto(
                        folder,
                        tuple(f.name.removesuffix(NAME_SUFFIX) for f in files if _is_name(f)),
                        sum(map(_is_entry, files)),
                        sum(f.lstat().st_size for f in files),
                    )
                )
        return tuple(found)

    def forget(self, folders: Iterable[Path]) -> None:
        """Remove photos: the key, then what it encrypts, then the names, then the folder.

        Cut short at any point and asked again, it goes on. A photo whose key is gone already is
        removed with them, whoever was asked to forget it.

        Raises:
            RefusedError: If something that is no folder stands in the vault's way.
            OSError: If the disk refuses.
        """
        if not is_folder(self._root):
            return
        with self._alone():
            wanted = set(folders)
            for folder in self._folders():
                if folder in wanted or not (folder / KEY_FILE).exists():
                    _remove_photo(folder)

    def expired(self) -> tuple[Path, ...]:
        """Return what `remove_expired` would remove: files, and folders nothing would be left in.

        An entry's time is read without its key: one that was changed reads as damaged when it is
        asked for, and lasts no longer than a fresh one.

        Raises:
            RefusedError: If something that is no folder stands in the vault's way.
            OSError: If the disk refuses.
        """
        found: list[Path] = []
        for folder in self._folders():
            try:
                files = sorted(folder.iterdir())
            except FileNotFoundError:  # forgotten by another process meanwhile
                continue
            # A temp of a writer that died; one that lives holds the lock.
            past = [f for f in files if f.name.startswith(".") or (_is_entry(f) and self._past(f))]
            left = any(_is_entry(file) and file not in past for file in files)
            found += past if left and folder / KEY_FILE in files else [folder]
        return tuple(found)

    def remove_expired(self) -> tuple[Path, ...]:
        """Remove entries past their life, and what killed processes left; return what went.

        Raises:
            RefusedError: If something that is no folder stands in the vault's way.
            OSError: If the disk refuses.
        """
        if not is_folder(self._root):
            return ()
        with self._alone():
            expired = self.expired()
            for path in expired:
                if path.parent == self._root:
                    _remove_photo(path)
                else:
                    remove(path)
        return expired

    def _folder(self, photo_digest: str) -> Path:
        return self._root / keyed_digest(photo_digest, self._workspace_key)

    def _entry_name(self, entry: str) -> str:
        return keyed_digest(entry, self._workspace_key) + ENTRY_SUFFIX

    def _folders(self) -> list[Path]:
        """Return the photos' folders; what has another name is not the vault's."""
        if not is_folder(self._root):
            return []
        found = sorted(path for path in self._root.iterdir() if not path.name.startswith("."))
        return [path for path in found if is_folder(path)]

    @contextlib.contextmanager
    def _alone(self) -> Generator[None]:
        """Let nobody else write here; readers go on, and see whole files or none."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        lock = os.open(self._root / _LOCK_FILE, flags, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)  # frees it

    def _key_of(self, folder: Path) -> bytes:
        """Return a photo's key, made where there is none."""
        known = read_file(folder / KEY_FILE)
        if known is not None and _is_key(known):
            return known[:_KEY_BYTES]
        # What a lost key encrypted is for nobody any more.
        _clear(folder)
        key = secrets.token_bytes(_KEY_BYTES)
        write_file(folder / KEY_FILE, _with_digest(key))
        return key

    def _past(self, entry: Path) -> bool:
        return self._is_expired(read_file(entry, _HEADER.size) or b"")

    def _is_expired(self, sealed: bytes) -> bool:
        """Whether an entry is past its life, or says nothing of it."""
        if len(sealed) < _HEADER.size:
            return True
        age_ms = _now_ms() - _HEADER.unpack_from(sealed)[1]
        return not -_CLOCK_SLACK_MS <= age_ms <= self._life_ms

    def _remove(self, path: Path, seen: bytes, *, damaged: bool = True) -> None:
        """Remove a file, a key with all it encrypts, unless another process replaced it."""
        try:
            with self._alone():
                if read_file(path) != seen:
                    return
                if damaged:
                    logger.warning("%s is damaged, and is removed: found anew when needed", path)
                if path.name == KEY_FILE:
                    _clear(path.parent)
                remove(path)
        except OSError as error:
            logger.warning("%s could not be removed: %s", path, error.strerror)


def open_vault(settings: Settings) -> Vault:
    """Return the workspace's vault; its key is made on first use, the vault by the first entry.

    Raises:
        DamagedError: If the workspace's key is damaged.
        OSError: If the state folder cannot be written.
    """
    key = make_workspace_key(settings.state_dir)
    return Vault(settings.state_dir / FOLDER, workspace_key=key, days=settings.face_days)


def _label(photo_digest: str, entry: str) -> bytes:
    return f"{photo_digest}\n{entry}".encode()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _seal(key: bytes, data: bytes, label: bytes) -> bytes:
    """Return header, nonce, and the data encrypted with header and label authenticated."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    header = _HEADER.pack(_FORMAT, _now_ms())
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return header + nonce + AESGCM(key).encrypt(nonce, data, header + label)


def _unseal(key: bytes, sealed: bytes, label: bytes) -> bytes | None:
    """Return the data, or None if one bit of it, of its header or of its label is another."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    header, rest = sealed[: _HEADER.size], sealed[_HEADER.size :]
    nonce, encrypted = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
    if len(nonce) < _NONCE_BYTES:
        return None
    try:
        return AESGCM(key).decrypt(nonce, encrypted, header + label)
    except InvalidTag:
        return None


def _with_digest(key: bytes) -> bytes:
    return key + hashlib.sha256(key).digest()


def _is_key(data: bytes) -> bool:
    return len(data) > _KEY_BYTES and data == _with_digest(data[:_KEY_BYTES])


def _name_file(folder: Path, name: str) -> Path:
    # A file's name and not its content: it is there or not, and cannot be damaged.
    return folder / f"{check_name(name)}{NAME_SUFFIX}"


def _remember(folder: Path, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
    os.close(os.open(_name_file(folder, name), flags, 0o600))


def _clear(folder: Path) -> None:
    """Remove all of a photo but its key and its names."""
    for file in sorted(folder.iterdir()):
        if file.name != KEY_FILE and not _is_name(file):
            remove(file)


def _is_name(file: Path) -> bool:
    return file.name.endswith(NAME_SUFFIX)


def _is_entry(file: Path) -> bool:
    return file.name.endswith(ENTRY_SUFFIX) and not file.name.startswith(".")


def _remove_photo(folder: Path) -> None:
    """Remove a photo so that what is left at any moment is found again and tells nothing."""
    remove(folder / KEY_FILE)
    sync_folder(folder)  # from here on nobody can read the entries, not even in a copy
    _clear(folder)
    sync_folder(folder)
    for file in sorted(folder.iterdir()):
        remove(file)
    folder.rmdir()
    sync_folder(folder.parent)
