"""Where a program fetches weights: the two kinds of places they come from."""

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
