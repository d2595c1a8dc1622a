"""Places on disks: where the weights lie, what room is left, and sizes as people say them.

It knows paths and bytes; which files a variant needs is the business of `weights`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

COPIES_FOLDER = "converted"
"""Folder of the user's cache with copies of blocks in the type of the pass."""


@dataclass(frozen=True, slots=True)
class ModelFolders:
    """A folder of the public layout, some entries of which may lie elsewhere.

    Attributes:
        root: The folder; `models.lock.json` lies in it, whatever lies elsewhere.
        paths: Entry of the public layout (a folder, or a file) and where it lies instead.
    """

    root: Path
    paths: tuple[tuple[str, Path], ...] = ()

    def __truediv__(self, name: str) -> Path:
        """Return where `name`, a path of the public layout, lies: as a plain folder would."""
        for entry, place in self.paths:
            if name == entry:
                return place
            if name.startswith(f"{entry}/"):
                return place / name[len(entry) + 1 :]
        return self.root / name

    def __str__(self) -> str:
        """Return the root, the folder a message should name."""
        return str(self.root)

    def name_of(self, path: Path) -> str:
        """Return the public layout's name of a file, "" for one that is none of it."""
        for entry, place in self.paths:
            if path == place:
                return entry
            if path.is_relative_to(place):
                return f"{entry}/{path.relative_to(place).as_posix()}"
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else ""

    def resolve(self) -> ModelFolders:
        """Return the same places by paths that hold in any working folder."""
        paths = tuple((entry, place.resolve()) for entry, place in self.paths)
        return ModelFolders(self.root.resolve(), paths)


ModelsPlace = Path | ModelFolders
"""Where weights lie: a plain folder of the public layout, or one with entries elsewhere."""


def folders_of(place: ModelsPlace) -> ModelFolders:
    """Return `place` as folders, which a plain folder is without exceptions."""
    return place if isinstance(place, ModelFolders) else ModelFolders(place)


def free_bytes(folder: Path) -> tuple[Path, int]:
    """Return the nearest existing folder at or above `folder`, and the bytes free there."""
    path = folder.absolute()
    place = next(p for p in (path, *path.parents) if p.is_dir())
    return place, shutil.disk_usage(place).free


def bytes_in_words(count: float) -> str:
    """Return a size as people say it, in powers of ten: `3.2 GB`, `850 kB`, `12 bytes`."""
    if count < 1000:
        return f"{count:.0f} byte{'' if round(count) == 1 else 's'}"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5:
            return f"{count:.1f} {unit}" if count < 9.95 else f"{count:.0f} {unit}"
    return f"{count / 1000:.1f} TB"
