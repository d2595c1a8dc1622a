"""Where a network's tensors lie on disk: names, shapes and types from headers, numbers on demand.

A file's numbers come as views of the file mapped into memory: read when they are touched, shared
by all processes of a machine through its page cache, and never a copy of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from lynx_engine.folders import ModelsPlace
from lynx_engine.models.checkpoint import (
    Shapes,
    check_shapes,
    open_safetensors,
    read_index,
    read_pickle,
    require_file,
    shapes_of,
    unreadable,
    weights_error,
)
from lynx_engine.weights.digests import check_pickle
from lynx_engine.weights.stamps import FileFacts

_FLOATS = {"F64", "F32", "BF16", "F16"}


class TensorSource(Protocol):
    """Named tensors on disk."""

    @property
    def path(self) -> Path:
        """The file that messages name."""
        ...

    @property
    def shapes(self) -> Shapes:
        """Name -> shape of every tensor."""
        ...

    def read(self, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each of `names` with its tensor on the CPU, in the type of the file.

        Raises:
            RowError: WEIGHTS, if a file is gone, damaged or another one than when it was opened.
        """
        ...


@dataclass(frozen=True, slots=True)
class SafetensorsSource:
    """The tensors of one safetensors file, or of the shards of one index.

    Attributes:
        path: The only file, or the index.
        files: Name -> the file that holds the tensor.
        shapes: Name -> shape.
        facts: File -> what it was when its header was read; one that is replaced during a run is
            refused, for its numbers would pass under the name of the first one's.
    """

    path: Path
    files: Mapping[str, Path]
    shapes: Shapes
    facts: Mapping[Path, FileFacts]

    def read(self, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield views of the mapped files: file by file, each in the order of its bytes.

        A view that is kept holds the mapping of its whole file, and no memory of its own.
        """
        wanted = frozenset(names)
        for path in dict.fromkeys(self.files[name] for name in self.shapes if name in wanted):
            with open_safetensors(path) as file:
                _check_unchanged(path, self.facts[path])
                for name in _offset_order(file):
                    if name in wanted and self.files[name] == path:
                        yield name, file.get_tensor(name)

    def views(self) -> dict[str, torch.Tensor]:
        """Return every tensor as a view of its mapped file."""
        return dict(self.read(self.shapes))


@dataclass(frozen=True, slots=True)
class PickleSource:
    """The tensors of a `.pth` file, whose digest was compared with the lock when it was opened.

    Attributes:
        path: The file.
        shapes: Name -> shape.
        facts: What the file was when its digest was compared.
    """

    path: Path
    shapes: Shapes
    facts: FileFacts

    def read(self, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors; views of the mapped file unless it is of torch's older form."""
        tensors = read_pickle(self.path, mapped=True)
        # Checked before the first one is used: the rest of the network is in place already.
        _check_unchanged(self.path, self.facts)
        yield from ((name, tensor) for name, tensor in tensors.items() if name in names)


def open_file(path: Path) -> SafetensorsSource:
    """Read the header of one safetensors file.

    Raises:
        RowError: WEIGHTS, if it is missing, damaged or holds tensors of no floating type.
    """
    facts, shapes = _header(path)
    return SafetensorsSource(path, dict.fromkeys(shapes, path), shapes, {path: facts})


def open_pickle(path: Path, *, models_dir: ModelsPlace) -> PickleSource:
    """Read a `.pth` file once, as a whole, so that its digest and checksums are compared.

    Args:
        path: The file.
        models_dir: The folder whose `models.lock.json` lists the file.

    Raises:
        RowError: WEIGHTS, if it is missing, damaged, or not the one that was locked.
    """
    facts = _facts(path)
    check_pickle(path, models_dir)
    source = PickleSource(path, shapes_of(read_pickle(path)), facts)
    _check_unchanged(path, facts)
    return source


def outline(source: TensorSource) -> dict[str, torch.Tensor]:
    """Return every tensor as one of the `meta` device: its shape, and no numbers."""
    return {name: torch.empty(shape, device="meta") for name, shape in source.shapes.items()}


def open_component(folder: Path, *, stem: str) -> SafetensorsSource:
    """Read the headers of a model component, over all its shards.

    Args:
        folder: Such as `transformer/` of a base model.
        stem: `model` or `diffusion_pytorch_model`.

    Raises:
        RowError: WEIGHTS, if a file is missing or damaged, the component is there twice, or index
            and shards disagree about which file holds what.
    """
    index = folder / f"{stem}.safetensors.index.json"
    path = folder / f"{stem}.safetensors"
    if not index.is_file():
        return open_file(path)
    if path.is_file():
        # diffusers would load the shards and transformers this file, unchecked.
        what = f"lies beside the shards of {index.name}"
        raise weights_error(path, what, cure="They are two models; delete one of the two.")
    listed = read_index(index)
    files: dict[str, Path] = {}
    facts: dict[Path, FileFacts] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for shard in sorted(set(listed.values())):
        file = folder / shard
        facts[file], held = _header(file)
        for name, shape in held.items():
            if name in files:
                raise weights_error(file, f"holds {name}, which {files[name].name} holds too")
            if listed.get(name, shard) != shard:
                what = f"holds {name}, which {index.name} seeks in {listed[name]}"
                raise weights_error(file, what)
            files[name], shapes[name] = file, shape
    check_shapes(shapes, {name: shapes.get(name, ()) for name in listed}, index)
    return SafetensorsSource(index, files, shapes, facts)


def _facts(path: Path) -> FileFacts:
    require_file(path)
    try:
        return FileFacts.of(path)
    except OSError as error:
        raise unreadable(path, f"cannot be read ({error.strerror})") from error


def _check_unchanged(path: Path, facts: FileFacts) -> None:
    if _facts(path) != facts:
        cure = "Leave the files of a run alone while it renders, and run the command again."
        raise weights_error(path, "changed while it was in use", cure=cure)


def _header(path: Path) -> tuple[FileFacts, dict[str, tuple[int, ...]]]:
    facts = _facts(path)
    with open_safetensors(path) as file:
        slices = {name: file.get_slice(name) for name in _offset_order(file)}
        odd = [f"{n} ({s.get_dtype()})" for n, s in slices.items() if s.get_dtype() not in _FLOATS]
        if odd:
            more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            raise weights_error(
                path,
                f"holds {odd[0]}{more}, a number type this engine does not compute in",
                cure="Download the float32, bfloat16 or float16 file from its source.",
            )
        return facts, {name: tuple(part.get_shape()) for name, part in slices.items()}


def _offset_order(file: Any) -> list[str]:
    # safetensors ships no types; reading in the order of bytes is reading ahead.
    return file.offset_keys()
