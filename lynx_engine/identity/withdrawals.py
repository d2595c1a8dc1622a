"""The register of withdrawals: a small file that every plan and every render looks at.

It holds names, days and keyed digests of photos, never a photo's own digest. Two equal copies lie
in the workspace, `lynx.withdrawals` beside lynx.toml and one in the state folder, so that whoever
deletes `outputs/` or `.lynx/` deletes no withdrawal; the copy with the higher serial counts.

What is lost when:

- one copy: nothing. The next change writes both.
- both copies: every withdrawal. Nothing on this machine knows of them then.
- the workspace key, which lies in the state folder: the digests of photos recognise no photo any
  more. Names still count, and `Withdrawals.against` refuses every other subject, until the key is
  back or the withdrawal is noted anew.
- a copy is damaged or cannot be read: `DamagedError`, and nothing is planned or rendered.

Each copy is a line with the sha256 of all bytes behind it, and then JSON.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import stat
import time
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.consent import Withdrawal, Withdrawals
from lynx_engine.digest import digest_bytes
from lynx_engine.errors import DamagedError, LockedError, Problem, pausing
from lynx_engine.provenance.environment import keyed_digest, make_workspace_key
from lynx_engine.provenance.files import write_durably

if TYPE_CHECKING:
    from lynx_engine.settings import Settings

FILE = "lynx.withdrawals"
LOCK_FILE = ".withdrawals.lock"
_ADVICE = (
    "Nothing is planned or rendered until it is mended: put the file back as it was. If the other "
    "copy is whole, deleting this one is enough."
)
_LOCK_S = 10.0


def copies_of(settings: Settings) -> tuple[Path, Path]:
    """Return where the register lies, the workspace's own copy first."""
    return settings.workspace / FILE, settings.state_dir / FILE


def read_withdrawals(settings: Settings) -> Withdrawals:
    """Return every withdrawal of the workspace; none of it was ever there if both copies are gone.

    Raises:
        DamagedError: If a copy is not as it was written, or cannot be read.
    """
    found: list[Withdrawals] = []
    problems: list[Problem] = []
    for path in copies_of(settings):
        read = _read_copy(path)
        if isinstance(read, Problem):
            problems.append(read)
        elif read is not None:
            found.append(read)
    if problems:
        raise DamagedError("The register of withdrawals is damaged", problems, _ADVICE)
    newest = max(found, key=lambda copy: copy.serial, default=Withdrawals())
    if any(copy.serial == newest.serial and copy != newest for copy in found):
        text = "differs from its other copy, and neither is the newer one."
        problem = Problem(str(copies_of(settings)[1]), text)
        raise DamagedError("The register of withdrawals is damaged", [problem], _ADVICE)
    return newest


def withdrawn(
    register: Withdrawals, subject: str, photo_digests: Collection[str], key: bytes | None
) -> str:
    """Return why a subject counts as withdrawn, or "".

    Args:
        register: From `read_withdrawals`.
        subject: Name in the manifest.
        photo_digests: sha256 of each of its photos, in their order.
        key: The workspace key; None if no run made one yet.
    """
    if not register.entries:
        return ""
    keyed = () if key is None else _keyed(photo_digests, key)
    return register.against(subject, keyed, "" if key is None else _mark(key))


def withdraw(
    settings: Settings,
    subject: str,
    *,
    photo_digests: Iterable[str] = (),
    keyed: Iterable[str] = (),
) -> Withdrawal:
    """Note that a person took their consent back. From then on no row of theirs begins.

    Args:
        settings: The workspace.
        subject: Their name in manifests.
        photo_digests: sha256 of photos that show them, as far as they are at hand.
        keyed: Digests of such photos that are keyed with the present workspace key already.

    Returns:
        What the register says of them now: photos noted before stay noted.

    Raises:
        DamagedError: If the register or the workspace key is damaged; nothing was noted.
        LockedError: If another process holds the register for long.
        PausedError: If the disk refuses.
    """
    with pausing(settings.workspace):
        key = make_workspace_key(settings.state_dir)
        photos = {*keyed, *_keyed(tuple(photo_digests), key)}
        mark = _mark(key)
        now = datetime.now(UTC).isoformat(timespec="seconds")

        def change(entries: tuple[Withdrawal, ...]) -> tuple[Withdrawal, ...]:
            same = [e for e in entries if _is_named(e, subject) and e.key == mark]
            noted = photos.union(*(entry.photos for entry in same))
            at = min((entry.at for entry in same), default=now)
            entry = Withdrawal(subject, tuple(sorted(noted)), mark, at)
            return (*(e for e in entries if e not in same), entry)

        return _change(settings, change).entries[-1]


def restore(settings: Settings, subject: str) -> bool:
    """Take a withdrawal back, for a person who gave a new consent.

    Returns:
        Whether there was one under this name.

    Raises:
        DamagedError: If the register is damaged; nothing was changed.
        LockedError: If another process holds it for long.
        PausedError: If the disk refuses.
    """
    with pausing(settings.workspace):
        if not any(_is_named(e, subject) for e in read_withdrawals(settings).entries):
            return False
        _change(settings, lambda known: tuple(e for e in known if not _is_named(e, subject)))
    return True


def _change(
    settings: Settings,
    change: Callable[[tuple[Withdrawal, ...]], tuple[Withdrawal, ...]],
) -> Withdrawals:
    with _locked(settings.state_dir):
        before = read_withdrawals(settings)
        after = Withdrawals(change(before.entries), before.serial + 1)
        body = json.dumps(asdict(after), indent=1, sort_keys=True).encode() + b"\n"
        data = digest_bytes(body).encode() + b"\n" + body
        # One after the other: whenever this dies, the newer copy there is counts.
        for path in copies_of(settings):
            write_durably(path, data, mode=0o600)
    return after


def _read_copy(path: Path) -> Withdrawals | Problem | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return Problem(str(path), "is not a file.")
        data = path.read_bytes()
    except FileNotFoundError:
        return Problem(str(path), "is a link that leads nowhere.") if path.is_symlink() else None
    except OSError as error:
        return Problem(str(path), f"cannot be read ({error.strerror}).")
    digest, _, body = data.partition(b"\n")
    if digest != digest_bytes(body).encode():
        return Problem(str(path), f"its {len(data)} bytes are not those that were written.")
    return _parsed(path, body)


def _parsed(path: Path, body: bytes) -> Withdrawals | Problem:
    try:
        read = json.loads(body)
        entries = tuple(
            Withdrawal(e["subject"], tuple(e["photos"]), e["key"], e["at"]) for e in read["entries"]
        )
        return Withdrawals(entries, read["serial"])
    except (ValueError, KeyError, TypeError):
        return Problem(str(path), "is whole, but of a form that this version does not read.")


def _keyed(photo_digests: Collection[str], key: bytes) -> tuple[str, ...]:
    """Return the keyed digest of each photo and, as the log names several, of all together."""
    together = (",".join(photo_digests),) if len(photo_digests) > 1 else ()
    return tuple(keyed_digest(digest, key) for digest in (*photo_digests, *together))


def _mark(key: bytes) -> str:
    """Return what tells this key from another one without telling it."""
    return hmac.new(key, b"lynx_engine register of withdrawals", hashlib.sha256).hexdigest()[:16]


def _is_named(entry: Withdrawal, subject: str) -> bool:
    return entry.subject.casefold() == subject.casefold()


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Hold the register; the system frees it when its holder dies."""
    folder.mkdir(parents=True, exist_ok=True)  # whoever deleted it deleted no withdrawal
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder / LOCK_FILE, flags, 0o600)
    try:
        give_up = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    text = f"{folder / LOCK_FILE} is held by another command; try again."
                    raise LockedError(text) from None
                time.sleep(0.02)
            else:
                break
        yield
    finally:
        os.close(descriptor)
