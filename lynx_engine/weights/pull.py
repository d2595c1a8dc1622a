"""Brings the weights of variants here: what the sources list, less what is here and right.

One process at a time pulls into a folder. The first pull of a repository pins its commit in
`models.lock.json`; later ones ask for that commit. Nothing gets its name before its digest was
checked, and a file that is here and differs is named, not overwritten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lynx_engine.digest import digest_file
from lynx_engine.errors import DamagedError, PausedError, Problem, RefusedError, RowError, pausing
from lynx_engine.folders import ModelFolders, bytes_in_words, free_bytes
from lynx_engine.weights import lock as words
from lynx_engine.weights.fetch import fetch, git_blob_of, part_of, put_in_place
from lynx_engine.weights.files import files_of, needed_files
from lynx_engine.weights.lock import LockedFile, add_to_lock, alone, read_lock
from lynx_engine.weights.origins import HubFolder, ReleaseFile, WeightFile, WeightSet
from lynx_engine.weights.sources import (
    OUTCOME,
    RemoteFile,
    describe_hub,
    describe_release,
)
from lynx_engine.weights.stamps import (
    FileFacts,
    add_stamps,
    digest_and_stamp,
    is_stamped,
    read_stamps,
)

if TYPE_CHECKING:
    from lynx_engine.variants.spec import VariantSpec

_REPLACE = "Move it away, or run with --replace to fetch the source's over it."


class PullObserver(Protocol):
    """Told of a pull's progress."""

    def waiting(self, holder: str) -> None:
        """Another process pulls into this folder."""
        ...

    def checking(self, name: str, size: int) -> None:
        """A file of `size` bytes is being hashed."""
        ...

    def fetching(self, name: str, done: int, total: int) -> None:
        """`done` of the `total` bytes of this pull are here."""
        ...


@dataclass(frozen=True, slots=True)
class PullOptions:
    """How to pull.

    Attributes:
        cache_dir: Where it is remembered what was verified.
        github: Where release files come from.
        sha256: What the person states a release file's sha256 to be; "" if nothing.
        replace: Whether files that differ from their source are fetched over.
        disk_check: Whether to refuse what will not find room.
    """

    cache_dir: Path
    github: str = "https://github.com"
    sha256: str = ""
    replace: bool = False
    disk_check: bool = True


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull did; names are of the public layout.

    Attributes:
        fetched: Files that came, with their sizes in bytes.
        adopted: Files that were here, right, and are listed in the lock now.
        kept: Files that were here, listed and right.
    """

    fetched: Mapping[str, int]
    adopted: tuple[str, ...]
    kept: tuple[str, ...]


def pull(
    specs: Sequence[VariantSpec | WeightSet],
    models_dir: ModelFolders,
    options: PullOptions,
    observer: PullObserver,
) -> PullReport:
    """Fetch what the variants need and is not here.

    Args:
        specs: Variants whose weights are downloaded, and sets of weights of their own.
        models_dir: Where they belong.
        options: How.
        observer: Told of progress.

    Raises:
        RefusedError: If a source does not give a file, or a stated digest contradicts the lock.
        PausedError: If network or disk give up; the same command goes on from there.
        DamagedError: Names files that differ from their source, or came damaged.
        RowError: WEIGHTS, if the lock cannot be read.
    """
    with pausing(models_dir.root):
        models_dir.root.mkdir(parents=True, exist_ok=True)
        with alone(models_dir.root / ".pull", waiting=observer.waiting):
            report = _Pull(models_dir, options, observer).run(specs)
    lacking = [
        Problem(name, "is read by the engine, and its source holds no such file")
        for spec in specs
        for name in needed_files(spec, models_dir)
        if not (models_dir / name).is_file()
    ]
    if lacking:
        raise RefusedError(lacking, outcome="all else is here")
    return report


class _Pull:
    """One pull, under the folder's lock."""

    def __init__(
        self, models_dir: ModelFolders, options: PullOptions, observer: PullObserver
    ) -> None:
        self._models_dir = models_dir
        self._options = options
        self._observer = observer
        self._locked = read_lock(models_dir)
        self._stamps = read_stamps(options.cache_dir)
        self._adopted: list[str] = []
        self._kept: list[str] = []
        self._right: dict[str, LockedFile] = {}  # here, right, and not listed so

    def run(self, specs: Sequence[VariantSpec | WeightSet]) -> PullReport:
        files = self._describe(specs)
        self._check_stated(files)
        missing = self._missing(files)
        if self._options.disk_check:
            self._check_room(missing)
        # From here on the commit is pinned, whatever happens to the files themselves.
        of_the_hub = {file.name: file for file in files if file.sha256}
        pinned = {n: _entry(f, f.sha256, words.OF_THE_HUB) for n, f in of_the_hub.items()}
        self._list(self._right | pinned)
        # Files without a published sha256 are small or few: the lock is complete after them.
        missing.sort(key=lambda file: bool(file.sha256))
        total = sum(file.size or 0 for file in missing)
        done = 0
        for file in missing:
            self._fetch(file, done, total)
            done += file.size or 0
        sizes = {f.name: (self._models_dir / f.name).stat().st_size for f in missing}
        return PullReport(sizes, tuple(self._adopted), tuple(self._kept))

    def _describe(self, specs: Sequence[VariantSpec | WeightSet]) -> list[RemoteFile]:
        """Ask the sources; entries that are here, listed and right are not asked for."""
        files: dict[str, RemoteFile] = {}
        seen: set[str] = set()
        for spec, weight in ((s, weight) for s in specs for weight in s.weights):
            if weight.path in seen:
                continue
            seen.add(weight.path)
            if self._is_whole(spec, weight):
                continue
            match weight.origin:
                case HubFolder() as origin:
                    pinned = self._pinned(weight)
                    found = describe_hub(weight, origin, revision=pinned)
                case ReleaseFile() as origin:
                    found = [describe_release(weight, origin, github=self._options.github)]
                case None:
                    found = []
            files |= {file.name: file for file in found}
        return list(files.values())

    def _is_whole(self, spec: VariantSpec | WeightSet, weight: WeightFile) -> bool:
        try:
            names = {*files_of(weight, needed_files(spec, self._models_dir))}
        except RowError:  # an index that cannot be read; its source is asked for a right one
            return False
        names |= {*files_of(weight, tuple(self._locked))}
        entries = {name: self._locked.get(name) for name in names}
        for name, entry in entries.items():
            path = self._models_dir / name
            if entry is None or not path.is_file() or path.stat().st_size != entry.size:
                return False
            if isinstance(weight.origin, HubFolder) and not entry.revision:
                return False  # listed by hand: compared with the Hub's metadata once
        right = all(
            e and self._sha256(self._models_dir / n) == e.sha256 for n, e in entries.items()
        )
        if right and not (self._options.sha256 and isinstance(weight.origin, ReleaseFile)):
            self._kept += sorted(entries)
            return bool(entries)
        return False

    def _pinned(self, weight: WeightFile) -> str:
        """Return the commit the lock pins for the entry, else for another of its repository."""
        own = files_of(weight, tuple(self._locked))
        if not isinstance(weight.origin, HubFolder):
            return ""
        place = f"huggingface.co/{weight.origin.repository}"
        others = [n for n, e in self._locked.items() if e.source.partition(",")[0] == place]
        pins = [self._locked[name].revision for name in (*own, *others)]
        return next((pin for pin in pins if pin), "")

    def _check_stated(self, files: Iterable[RemoteFile]) -> None:
        stated = self._options.sha256
        if not stated:
            return
        releases = [file for file in files if not file.on_hub]
        if len(releases) != 1:
            told = "states the digest of a release file; these variants fetch none"
            raise RefusedError([Problem("--sha256", told)], outcome=OUTCOME)
        entry = self._locked.get(releases[0].name)
        if entry is not None and entry.sha256 != stated and not self._options.replace:
            told = (
                f"contradicts models.lock.json, which says {entry.sha256} ({entry.digest}) for "
                f"{releases[0].name}; with --replace yours counts"
            )
            raise RefusedError([Problem("--sha256", told)], outcome=OUTCOME)

    def _expected(self, file: RemoteFile) -> str:
        """Return the sha256 that the file must have, "" if nobody has said one yet."""
        if not file.on_hub and self._options.sha256:
            return self._options.sha256
        entry = self._locked.get(file.name)
        listed = entry.sha256 if entry and entry.revision == file.revision else ""
        if file.sha256 and listed and file.sha256 != listed:
            told = f"models.lock.json says {listed}, its source says {file.sha256} at that commit"
            raise DamagedError("The lock contradicts the source", [Problem(file.name, told)])
        return file.sha256 or listed

    def _missing(self, files: Iterable[RemoteFile]) -> list[RemoteFile]:
        """Return the files to fetch; take those that are here and right into the lock.

        Raises:
            DamagedError: Names those that are here and differ, unless they are to be replaced.
            RefusedError: If a folder stands in a file's place.
        """
        missing: list[RemoteFile] = []
        wrong: list[Problem] = []
        for file in files:
            expected, path = self._expected(file), self._models_dir / file.name
            if path.is_dir():
                told = "is a folder, not a file. Move it away, and run the command again"
                raise RefusedError([Problem(str(path), told)], outcome=OUTCOME)
            fault = self._look(file, path, expected) if path.is_file() else "missing"
            if fault:
                missing.append(file)
            if fault and fault != "missing":
                wrong.append(Problem(str(path), f"{fault}. {_REPLACE}"))
        if wrong and not self._options.replace:
            raise DamagedError("Files that are here are not those of their source", wrong)
        return missing

    def _look(self, file: RemoteFile, path: Path, expected: str) -> str:
        """Return what is wrong with a file that is here, "" if nothing is."""
        size = path.stat().st_size
        if file.size is not None and size != file.size:
            return f"has {size} bytes, {file.source} lists {file.size}"
        if file.git_blob and not expected:
            sha256, blob = self._sha256(path), git_blob_of(path)
            if blob != file.git_blob:
                return f"has the git blob id {blob}, {file.source} lists {file.git_blob}"
        else:
            sha256 = self._sha256(path)
            if expected and sha256 != expected:
                return f"has sha256 {sha256}, {file.source} should give {expected}"
        known = self._locked.get(file.name)
        listed = known is not None and (known.sha256, known.revision) == (sha256, file.revision)
        (self._kept if listed else self._adopted).append(file.name)
        if not listed or (self._options.sha256 and not file.on_hub):
            entry = _entry(file, sha256, self._word(file, found_here=True), path)
            self._right[file.name] = entry
        return ""

    def _word(self, file: RemoteFile, *, found_here: bool) -> str:
        """Return whose word a file's sha256 is."""
        if file.sha256:
            return words.OF_THE_HUB
        if file.git_blob:
            return words.OF_THE_BLOB
        if self._options.sha256:
            return words.STATED
        return words.OF_FILE_FOUND if found_here else words.OF_FIRST_DOWNLOAD

    def _sha256(self, path: Path) -> str:
        """Return a file's sha256, from its stamp if it has one."""
        stamp = self._stamps.get(str(path.resolve()), "").rpartition(" ")[2]
        if stamp and is_stamped(path, stamp, self._stamps):
            return stamp
        self._observer.checking(path.name, path.stat().st_size)
        found = digest_and_stamp(path, self._options.cache_dir)
        self._stamps = read_stamps(self._options.cache_dir)
        return found

    def _check_room(self, missing: Iterable[RemoteFile]) -> None:
        """Refuse what will not find room; what is half here counts as here.

        Raises:
            PausedError: Naming the folder, what is needed and what is free.
        """
        needed: dict[int, tuple[Path, int]] = {}
        for file in missing:
            target = self._models_dir / file.name
            part = part_of(target, file)
            here = part.stat().st_size if part.exists() else 0
            place, _ = free_bytes(target.parent)
            disk = place.stat().st_dev
            _, before = needed.get(disk, (place, 0))
            needed[disk] = (place, before + max((file.size or 0) - here, 0))
        for place, count in needed.values():
            free = free_bytes(place)[1]
            if count > free:
                raise PausedError(
                    f"{place} needs {bytes_in_words(count)} more for these weights, "
                    f"{bytes_in_words(free)} is free there. Make room, or name a folder on another "
                    "disk with --models or --model-path. LYNX_DISK_CHECK=false fetches until the "
                    "disk is full."
                )

    def _fetch(self, file: RemoteFile, before: int, total: int) -> None:
        """Fetch, check, name and list one file.

        Raises:
            DamagedError: If it came damaged; it is removed.
        """
        target = self._models_dir / file.name
        part = fetch(
            file, target, lambda got: self._observer.fetching(file.name, before + got, total)
        )
        expected, fault = self._expected(file), ""
        facts, sha256 = FileFacts.of(part), digest_file(part)
        if file.git_blob and (blob := git_blob_of(part)) != file.git_blob:
            fault = f"has the git blob id {blob}, the Hub's metadata says {file.git_blob}"
        if expected and sha256 != expected:
            fault = f"has sha256 {sha256}, it should have {expected}"
        if fault:
            part.unlink()
            told = f"came damaged from {file.source}: it {fault}. It was removed; run it again."
            raise DamagedError("A download was refused", [Problem(str(target), told)])
        with pausing(target):
            put_in_place(part, target)
        add_stamps(self._options.cache_dir, {target: (facts, sha256)})
        if not file.sha256:
            self._list(
                {file.name: _entry(file, sha256, self._word(file, found_here=False), target)}
            )

    def _list(self, entries: Mapping[str, LockedFile]) -> None:
        new = {name: e for name, e in entries.items() if self._locked.get(name) != e}
        add_to_lock(self._models_dir, new)
        self._locked = read_lock(self._models_dir)


def _entry(file: RemoteFile, sha256: str, word: str, here: Path | None = None) -> LockedFile:
    size = file.size if here is None else here.stat().st_size
    return LockedFile(sha256, size, file.source, file.revision, word)
