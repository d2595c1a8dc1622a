"""Which weights there are, and where a program fetches them: the two kinds of places."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HubFolder:
    """A folder of a repository on the Hugging Face Hub.

    Attributes:
        repository: `owner/name`.
        folder: Folder in it that becomes the entry; "" for the repository itself.
        patterns: Which files of the folder are read, as in `vae/*.json`.
    """

    repository: str
    folder: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """A file of a release on GitHub, for which no digest is published.

    Attributes:
        path: Its address below https://github.com, with a leading slash.
    """

    path: str


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file or folder that is read below the models folder.

    Attributes:
        path: Relative path in the public layout.
        source: Where it comes from, in words.
        licence: SPDX expression, or the terms in words.
        origin: Where a program fetches it; None for what is made on this machine.
    """

    path: str
    source: str
    licence: str
    origin: HubFolder | ReleaseFile | None = None


@dataclass(frozen=True, slots=True)
class WeightSet:
    """Weights that belong to no variant, fetched and verified by a name of their own.

    Attributes:
        name: Identifier on the command line.
        weights: Files with source and licence.
        files: Every file that is read, by its name in the public layout.
    """

    name: str
    weights: tuple[WeightFile, ...]
    files: tuple[str, ...]
