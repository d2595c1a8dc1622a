"""A disk that forgets what was not forced to it: what is left of a folder after a power cut.

POSIX promises no more than this: a file's bytes are safe once it was fsynced, a name (made, changed
or deleted) once its folder was. What was not may be there all the same, in any combination.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.disk import Operation

Name = str
"""Path of a file or folder, relative to the disk's root."""


@dataclass(frozen=True, slots=True)
class Change:
    """Names that change in a folder at once: `gone` is none any more, `made` is that of `file`."""

    folder: Name
    gone: Name = ""
    made: Name = ""
    file: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """The disk just before one operation.

    Attributes:
        operation: What came next.
        names: Name -> file, as far as it is safe.
        pending: Changes of names that are not safe yet, oldest first.
        safe: File -> the bytes that are safe; None is a folder.
        written: File -> the bytes a reader saw.
        acknowledged: How many promises had been made.
    """

    operation: str
    names: Mapping[Name, int]
    pending: tuple[Change, ...]
    safe: Mapping[int, bytes | None]
    written: Mapping[int, bytes | None]
    acknowledged: int


@dataclass
class ForgetfulDisk:
    """A listener that notes, before every operation, what a power cut would leave.

    Attributes:
        root: The folder it stands for. What is there at the beginning is safe.
        journal: Whether every fsync makes all names safe that were changed before, as ext4 and
            XFS do. Without it, only those of the folder that was fsynced.
        promises: Filled by whoever acknowledges something.
        moments: One for each operation.
    """

    root: Path
    journal: bool
    promises: list[object] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        self._live: dict[Name, int] = {}
        self._safe: dict[int, bytes | None] = {}
        self._names: dict[Name, int] = {}
        self._pending: list[Change] = []
        for path in sorted(self.root.rglob("*")):
            self._live[self._name(path)] = file = len(self._safe) + 1
            self._safe[file] = None if path.is_dir() else path.read_bytes()
        self._names = dict(self._live)

    def before(self, operation: Operation) -> None:
        if operation.name in {"open", "read", "list", "stat", "chmod"}:
            return
        written = dict(self._safe)
        for name, file in self._live.items():
            if self._safe[file] is not None:
                written[file] = _read(self.root / name)
        told = f"{operation.name} {operation.path.name}"
        self.moments.append(
            Moment(
                told,
                dict(self._names),
                tuple(self._pending),
                dict(self._safe),
                written,
                len(self.promises),
            )
        )

    def after(self, operation: Operation) -> None:
        name = self._name(operation.path)
        match operation.name:
            case "create" | "mkdir" if name not in self._live:
                file = len(self._safe) + 1
                self._safe[file] = b"" if operation.name == "create" else None
                self._link(name, file)
            case "unlink" | "rmdir":
                del self._live[name]
                self._pending.append(Change(_folder(name), gone=name))
            case "link":
                self._link(self._target(operation), self._live[name])
            case "rename":
                self._rename(name, self._target(operation))
            case "fsync":
                self._sync(operation.path, name)
            case _:
                pass

    def _link(self, name: Name, file: int) -> None:
        self._live[name] = file
        self._pending.append(Change(_folder(name), made=name, file=file))

    def _rename(self, name: Name, target: Name) -> None:
        file = self._live.pop(name)
        self._live[target] = file
        if _folder(name) == _folder(target):
            self._pending.append(Change(_folder(name), name, target, file))
        else:
            self._pending.append(Change(_folder(target), made=target, file=file))
            self._pending.append(Change(_folder(name), gone=name))

    def _sync(self, path: Path, name: Name) -> None:
        is_folder = name == "." or self._safe[self._live[name]] is None
        if not is_folder:
            self._safe[self._live[name]] = _read(path)
        safe = [c for c in self._pending if self.journal or (is_folder and c.folder == name)]
        apply(safe, self._names)
        self._pending = [change for change in self._pending if change not in safe]

    def _name(self, path: Path) -> Name:
        return path.relative_to(self.root).as_posix()

    def _target(self, operation: Operation) -> Name:
        assert operation.target is not None, "nothing leaves the disk"
        return self._name(operation.target)


def _folder(name: Name) -> Name:
    return Path(name).parent.as_posix()


def _read(path: Path) -> bytes:
    """Read past those who watch this process's operations."""
    descriptor = _open(path, os.O_RDONLY)
    try:
        return b"".join(iter(lambda: os.read(descriptor, 1 << 20), b""))
    finally:
        os.close(descriptor)


_open = os.open  # as it is while nobody watches


def apply(changes: Iterable[Change], names: dict[Name, int]) -> None:
    """Carry out changes of names."""
    for change in changes:
        names.pop(change.gone, None)
        if change.made:
            names[change.made] = change.file


World = dict[Name, bytes | None]
"""Name -> bytes; None is a folder."""


def nothing_unsafe(moment: Moment) -> World:
    """Return the worst a strict disk does: unsafe names undone, unsafe files emptied."""
    return _world(moment, (), lambda _safe, _written: b"")


def as_written(moment: Moment) -> World:
    """Return what a killed process leaves on a disk that goes on: all that it had done."""
    return _world(moment, moment.pending, lambda _safe, written: written)


def names_without_bytes(moment: Moment) -> World:
    """Return what file systems did that wrote names before bytes: empty files in place."""
    return _world(moment, moment.pending, lambda _safe, _written: b"")


def by_chance(moment: Moment, dice: random.Random, *, journal: bool) -> World:
    """Return a world where some of what was unsafe is there; a journal keeps the order of names."""
    if journal:
        kept = moment.pending[: dice.randint(0, len(moment.pending))]
    else:
        kept = tuple(change for change in moment.pending if dice.random() < 0.5)

    def choose(safe: bytes, written: bytes) -> bytes:
        return dice.choice((safe, written, written[: dice.randint(0, len(written))]))

    return _world(moment, kept, choose)


def _world(
    moment: Moment, kept: Iterable[Change], choose: Callable[[bytes, bytes], bytes]
) -> World:
    """Lay names over bytes; `choose` says what is left of a file that was written since."""
    names = dict(moment.names)
    apply(kept, names)
    world: World = {}
    for name in sorted(names):
        folder = _folder(name)
        if folder != "." and folder not in world:
            continue  # its folder is lost, and with it all that lay there
        safe, written = moment.safe[names[name]], moment.written[names[name]]
        if safe is None or written is None or safe == written:
            world[name] = safe
        else:
            world[name] = choose(safe, written)
    return world


def lay_out(world: World, folder: Path) -> None:
    """Make `folder` hold a world and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in world.items():
        if data is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(data)
