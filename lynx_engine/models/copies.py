"""Copies of transformer blocks in the type of the pass, one a machine, for streamed blocks.

A streamed block is read at every pass. From a file of another type each of those reads would be
twice the bytes and a cast; a copy costs disk once. The copies lie in the cache folder, under a
digest of the weights and the type, and may be deleted at any time: `lynx-engine clean --copies`.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from lynx_engine.digest import digest_mapping, sample_file
from lynx_engine.errors import RowError
from lynx_engine.folders import COPIES_FOLDER
from lynx_engine.models.checkpoint import open_safetensors
from lynx_engine.weights.stamps import FileFacts

logger = logging.getLogger(__name__)

_DIGEST = "sha256"
# The cache shares its disk with clips and logs, which matter more.
_SPARE_BYTES = 2 << 30


class BlockCopies:
    """The copies of one transformer's blocks in one type."""

    def __init__(self, cache_dir: Path, files: Sequence[Path], dtype: torch.dtype) -> None:
        """Find the folder of the copies; nothing is made yet.

        Args:
            cache_dir: The user's cache.
            files: The files that hold the transformer; their content and facts name the folder.
            dtype: Type of the copies.
        """
        # Samples miss a single wrong byte. A file that is fetched anew over a damaged one has
        # other facts, and its copies are made anew with it.
        content = digest_mapping(
            {path.name: [sample_file(path), *FileFacts.of(path)] for path in files}
        )
        self._dtype = dtype
        self.folder = cache_dir / COPIES_FOLDER / f"{content[:32]}-{str(dtype).rpartition('.')[2]}"
        self._refused = False

    def open(
        self, number: int, block: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor] | None:
        """Return views of the mapped copy of a block, which is made first if need be.

        A copy that was damaged since is made anew. Processes that need the same copy at the same
        time make it once.

        Args:
            number: Of the block.
            block: Its tensors, of any type.

        Returns:
            None where the cache cannot hold it, which is logged once.
        """
        if self._refused:
            return None
        path = self.folder / f"block-{number:02d}.safetensors"
        try:
            if path.is_file() and (copy := self._checked(path, block)) is not None:
                return copy
            with self._turn():
                # Another process may have made it while this one waited for its turn.
                if not path.is_file():
                    self._make(path, block)
            return self._checked(path, block)
        except OSError as error:
            self._refuse(f"{error.strerror or error}")
            return None

    def _checked(
        self, path: Path, block: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor] | None:
        """Return the tensors of a copy; one that is not as it was made is removed."""
        try:
            with open_safetensors(path) as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                told = (file.metadata() or {}).get(_DIGEST)
        except RowError:
            tensors, told = {}, None
        shapes = {name: tensor.shape for name, tensor in block.items()}
        if {n: t.shape for n, t in tensors.items()} == shapes and told == _digest(tensors):
            return tensors
        logger.warning("%s is not as it was made. It is made anew.", path)
        path.unlink(missing_ok=True)
        return None

    def _make(self, path: Path, block: Mapping[str, torch.Tensor]) -> None:
        """Write a copy in one's turn; it appears under its name when all of it is on disk."""
        # Of a process that was killed: whoever has the turn is the only one who writes.
        for dead in self.folder.glob(".block-*.safetensors.*"):
            dead.unlink(missing_ok=True)
        size = sum(tensor.numel() for tensor in block.values()) * self._dtype.itemsize
        free = shutil.disk_usage(self.folder).free
        if free < size + _SPARE_BYTES:
            raise OSError(f"only {free >> 20} MiB are free there")
        logger.info("making %s, a copy in the type of the pass, for all workers", path)
        tensors = {name: tensor.to(self._dtype) for name, tensor in block.items()}
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            save_file(tensors, draft, metadata={_DIGEST: _digest(tensors)})
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _turn(self) -> Generator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".turn").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _refuse(self, why: str) -> None:
        self._refused = True
        logger.warning(
            "%s: no copy of the streamed blocks in the type of the pass (%s). Each pass reads and "
            "casts the original files, which takes longer. LYNX_CACHE names another folder.",
            self.folder,
            why,
        )


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
