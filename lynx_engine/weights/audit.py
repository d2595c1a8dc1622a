"""Looks at the weights that are here: what is complete, and what differs from the lock.

It fetches nothing and changes no weight file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import RowError
from lynx_engine.folders import ModelFolders
from lynx_engine.weights.fetch import parts_beside
from lynx_engine.weights.files import files_of, needed_files, place_fault, unreadable_letter
from lynx_engine.weights.lock import OF_FILE_FOUND, LockedFile, add_to_lock, read_lock
from lynx_engine.weights.stamps import digest_and_stamp, is_stamped, read_stamps

if TYPE_CHECKING:
    from lynx_engine.variants.spec import VariantSpec
    from lynx_engine.weights.origins import WeightFile, WeightSet

Entry = tuple["VariantSpec | WeightSet", "WeightFile"]
"""A variant, or a set of weights of its own, and one entry of the public layout that it reads."""


class EntryState(StrEnum):
    """How much of an entry is here.

    Attributes:
        COMPLETE: Every file, each verified against the lock and untouched since.
        NOT_VERIFIED: Every file; some are not in the lock, or were not hashed since they changed.
        PARTIAL: Some files, or one that is half fetched or of another size than the lock's.
        MISSING: Nothing.
    """

    COMPLETE = "complete"
    NOT_VERIFIED = "not verified"
    PARTIAL = "partial"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class EntryReport:
    """One entry of the public layout, as it is here.

    Attributes:
        entry: Its name.
        place: Where it lies, or would.
        state: How much of it is here.
        here_bytes: Bytes here, half-fetched ones included.
        listed_bytes: Bytes of all its files as the lock lists them; None if it does not.
        lacking: Files that are missing, of another size, or unreadable, in words.
    """

    entry: str
    place: Path
    state: EntryState
    here_bytes: int
    listed_bytes: int | None
    lacking: tuple[str, ...]


def look_at(entry: Entry, models_dir: ModelFolders, *, cache_dir: Path) -> EntryReport:
    """Return how much of an entry is here, without reading its files.

    Raises:
        RowError: WEIGHTS, if the lock cannot be read.
    """
    _, weight = entry
    locked, stamps = read_lock(models_dir), read_stamps(cache_dir)
    names, lacking = _names(entry, models_dir, locked)
    here, verified = 0, True
    for name in names:
        path, listed = models_dir / name, locked.get(name)
        here += sum(part.stat().st_size for part in parts_beside(path))
        if not path.is_file():
            lacking.append(f"{name} {place_fault(path)[0]}")
            continue
        size = path.stat().st_size
        here += size
        if listed is not None and listed.size not in {None, size}:
            lacking.append(f"{name} has {size} bytes, the lock says {listed.size}")
        verified &= listed is not None and is_stamped(path, listed.sha256, stamps)
    if lacking:
        state = EntryState.PARTIAL if here else EntryState.MISSING
    else:
        state = EntryState.COMPLETE if verified else EntryState.NOT_VERIFIED
    sizes = [locked[name].size if name in locked else None for name in names]
    listed_bytes = None if None in sizes else sum(size or 0 for size in sizes)
    place = models_dir / weight.path
    return EntryReport(weight.path, place, state, here, listed_bytes, tuple(lacking))


class Verdict(StrEnum):
    """What verifying a file showed.

    Attributes:
        RIGHT: Its sha256 is the lock's.
        DIFFERS: It is another.
        MISSING: The variant or the lock names it, and it is not here.
        UNREADABLE: The system does not let us read it.
        UNLISTED: The variant reads it, and the lock does not list it.
        RECORDED: It was unlisted; the lock lists it now as it is.
        EXTRA: It lies among the weights; nothing reads or lists it.
    """

    RIGHT = "right"
    DIFFERS = "differs"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    UNLISTED = "unlisted"
    RECORDED = "recorded"
    EXTRA = "extra"


@dataclass(frozen=True, slots=True)
class Finding:
    """What verifying showed of one file.

    Attributes:
        name: In the public layout.
        verdict: What became of it.
        told: The same in words, for a person.
    """

    name: str
    verdict: Verdict
    told: str


def has_anything(entry: Entry, models_dir: ModelFolders) -> bool:
    """Whether the lock lists something of the entry, or something of it lies here."""
    weight = entry[1]
    return (
        bool(files_of(weight, tuple(read_lock(models_dir)))) or (models_dir / weight.path).exists()
    )


def verify(
    entries: Iterable[Entry],
    models_dir: ModelFolders,
    *,
    cache_dir: Path,
    record: bool,
    on_file: Callable[[str, int], None],
) -> Generator[Finding]:
    """Hash every file of the entries and compare it with the lock, stamp or no stamp.

    Args:
        entries: What to verify; an entry of several variants is read once.
        models_dir: Where it lies.
        cache_dir: Where it is remembered what was verified.
        record: Whether the lock shall list unlisted files as they are.
        on_file: Told name and size in bytes of the file that is read next.

    Raises:
        RowError: WEIGHTS, if the lock cannot be read.
        OSError: If the disk refuses.
    """
    locked = read_lock(models_dir)
    once = {weight.path: (spec, weight) for spec, weight in entries}
    for entry in once.values():
        names, faults = _names(entry, models_dir, locked)
        yield from (Finding(entry[1].path, Verdict.DIFFERS, fault) for fault in faults)
        for name in names:
            path, listed = models_dir / name, locked.get(name)
            if not path.is_file():
                told = f"{path} {place_fault(path)[0]}; it comes from {entry[1].source}"
                yield Finding(name, Verdict.MISSING, told)
            elif listed is None and not record:
                yield Finding(name, Verdict.UNLISTED, f"{path} is not in the lock")
            else:
                on_file(name, path.stat().st_size)
                try:
                    found, source = digest_and_stamp(path, cache_dir), entry[1].source
                except OSError as error:
                    told = unreadable_letter(path, error)
                    yield Finding(name, Verdict.UNREADABLE, told)
                    continue
                if listed is None:
                    size = path.stat().st_size
                    recorded = LockedFile(found, size, source, "", OF_FILE_FOUND)
                    add_to_lock(models_dir, {name: recorded})
                yield _judged(name, path, found, listed=listed, source=source)
        for path in _extra(models_dir / entry[1].path, {models_dir / name for name in names}):
            name = models_dir.name_of(path)
            yield Finding(name, Verdict.EXTRA, f"{path}: nothing reads it")


def _judged(
    name: str, path: Path, found: str, *, listed: LockedFile | None, source: str
) -> Finding:
    if listed is None:
        told = f"{path} is listed now as it is: sha256 {found}"
        return Finding(name, Verdict.RECORDED, told)
    if found == listed.sha256:
        return Finding(name, Verdict.RIGHT, f"{path} is as the lock says")
    told = (
        f"{path} has sha256 {found}, the lock says {listed.sha256} "
        f"({listed.digest or 'it does not say whose word that is'}); "
        f"it comes from {listed.source or source}"
    )
    return Finding(name, Verdict.DIFFERS, told)


def _names(
    entry: Entry, models_dir: ModelFolders, locked: Mapping[str, LockedFile]
) -> tuple[list[str], list[str]]:
    """Return the files an entry has by the variant or by the lock; and what hinders to tell."""
    spec, weight = entry
    faults: list[str] = []
    needed: tuple[str, ...] = ()
    try:
        needed = needed_files(spec, models_dir)
    except RowError as error:
        if f"{models_dir / weight.path}/" in str(error):
            faults.append(str(error))
    names = {**dict.fromkeys(files_of(weight, needed)), **dict.fromkeys(locked)}
    return list(files_of(weight, tuple(names))), faults


def _extra(place: Path, known: set[Path]) -> list[Path]:
    if not place.is_dir():
        return []
    found = (p for p in place.rglob("*") if p.is_file() and p not in known)
    # Hidden files are halves and notes of those who fetched.
    return sorted(
        p for p in found if not any(s.startswith(".") for s in p.relative_to(place).parts)
    )
