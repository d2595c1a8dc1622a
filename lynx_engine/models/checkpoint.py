"""Reads weight files strictly: whatever does not fit is an error that names the file and the cure.

It knows names, shapes and digests, not what the tensors mean.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from lynx_engine.digest import digest_file
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.folders import ModelsPlace
from lynx_engine.weights.digests import check_digests, check_pickle
from lynx_engine.weights.files import shard_names
from lynx_engine.weights.lock import LOCK_NAME, locked_digests

if TYPE_CHECKING:
    from lynx_engine.variants.spec import VariantSpec

Shapes = Mapping[str, tuple[int, ...]]
Place = TypeVar("Place", bound=ModelsPlace)
_NAMES_SHOWN = 6


def ensure_weights(spec: VariantSpec, *, models_dir: Place, cache_dir: Path) -> Place | Path:
    """Return the folder that holds the variant's weights, making them first if they are made here.

    Args:
        spec: The variant.
        models_dir: Where downloaded weights lie.
        cache_dir: Where made weights lie, one folder a recipe, and where it is remembered which
            downloaded files were verified.

    Raises:
        RowError: WEIGHTS, if downloaded files are missing or differ from the lock, or the recipe
            made other numbers.
    """
    if not spec.builder:
        check_digests(spec, models_dir, cache_dir=cache_dir)
        return models_dir
    folder = cache_dir / spec.recipe
    try:
        if not folder.is_dir():
            module, _, function = spec.builder.partition(":")
            getattr(import_module(module), function)(folder)
    except OSError as error:
        raise RowError(
            ErrorCode.WEIGHTS,
            f"{folder}: cannot be written ({error.strerror}). LYNX_CACHE names another folder.",
        ) from error
    _check_made(folder)
    return folder


def _check_made(folder: Path) -> None:
    """Refuse made weights that differ from what was made: safetensors sees no flipped bit."""
    locked = locked_digests(folder)
    wrong = [
        name
        for name, digest in locked.items()
        if not (folder / name).is_file() or digest_file(folder / name) != digest
    ]
    if wrong or not locked:
        what = ", ".join(wrong) or LOCK_NAME
        raise RowError(
            ErrorCode.WEIGHTS,
            f"{folder}: {what} is missing or not as it was made. Delete the folder: it is made "
            "anew by the next run.",
        )


def read_tensors(
    path: Path, *, models_dir: ModelsPlace, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Read every tensor of a `.safetensors` or `.pth` file to the CPU.

    A `.pth` file is a pickle. It is read with torch's weights-only reader, which builds tensors
    and nothing else; and only after its sha256 matched that of `models.lock.json`.

    Args:
        path: The file.
        models_dir: The folder whose `models.lock.json` lists the file.
        dtype: Type to hold the tensors in; each is cast as it is read, so that the file's own
            float32 is never in memory as a whole.

    Raises:
        RowError: WEIGHTS, if the file is missing, damaged, or not the one that was locked.
    """
    if not path.is_file():
        raise weights_error(path, "is missing")
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as file:
            return {name: file.get_tensor(name).to(dtype) for name in file.keys()}  # noqa: SIM118
    check_pickle(path, models_dir)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        raise weights_error(
            path, f"cannot be read as plain tensors ({first_line(error)})"
        ) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
    ):
        raise weights_error(path, "holds something other than named tensors")
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of a safetensors file, from its header alone.

    Raises:
        RowError: WEIGHTS, if the file is missing or damaged.
    """
    if not path.is_file():
        raise weights_error(path, "is missing")
    with _open_safetensors(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def component_shapes(folder: Path, *, stem: str) -> tuple[Path, dict[str, tuple[int, ...]]]:
    """Return a model component's tensor shapes, over all its shards.

    Args:
        folder: Such as `transformer/` of a base model.
        stem: `model` or `diffusion_pytorch_model`.

    Returns:
        The file a message should name (the index, or the only file) and name -> shape.

    Raises:
        RowError: WEIGHTS, if a file is missing or damaged, or the component is there twice.
    """
    index = folder / f"{stem}.safetensors.index.json"
    path = folder / f"{stem}.safetensors"
    if not index.is_file():
        return path, tensor_shapes(path)
    if path.is_file():
        # diffusers would load the shards and transformers this file, unchecked.
        raise weights_error(path, f"lies beside the shards of {index.name}; delete one of the two")
    shapes: dict[str, tuple[int, ...]] = {}
    for name in shard_names(index):
        shapes |= tensor_shapes(folder / name)
    return index, shapes


def check_shapes(found: Shapes, expected: Shapes, path: Path) -> None:
    """Accept tensors that are exactly the expected ones, in name and shape.

    Args:
        found: What the file holds.
        expected: What the model wants.
        path: The file, for the message.

    Raises:
        RowError: WEIGHTS; names missing, unknown and misshapen tensors.
    """
    faults = [
        _listed("missing", sorted(expected.keys() - found.keys())),
        _listed("unknown", sorted(found.keys() - expected.keys())),
        _listed(
            "of another shape",
            [
                f"{name} {list(found[name])} instead of {list(expected[name])}"
                for name in sorted(expected.keys() & found.keys())
                if tuple(found[name]) != tuple(expected[name])
            ],
        ),
    ]
    if any(faults):
        raise weights_error(
            path,
            f"does not fit its model: {'; '.join(fault for fault in faults if fault)}",
        )


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Return name -> shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@contextmanager
def without_side_effects() -> Generator[None]:
    """Load through diffusers or transformers without their traces on the process.

    Their bars stay off the terminal, and torch's global generator, from which they fill tensors
    before the files replace them, is put back.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [
        library
        for library in (diffusers_logging, transformers_logging)
        if library.is_progress_bar_enabled()
    ]
    for library in shown:
        library.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def require_shape(
    tensors: Mapping[str, torch.Tensor], name: str, path: Path, *, axes: int
) -> tuple[int, ...]:
    """Return the shape of the tensor called `name`, for a width to be read from it.

    Raises:
        RowError: WEIGHTS, if the file has no such tensor or it has another number of axes.
    """
    if name not in tensors:
        raise weights_error(path, f"does not fit its model: missing {name}")
    shape = tuple(tensors[name].shape)
    if len(shape) != axes:
        raise weights_error(
            path, f"does not fit its model: {name} {list(shape)} has {len(shape)} axes, not {axes}"
        )
    return shape


def read_config(path: Path) -> dict[str, Any]:
    """Read a component's settings.

    Raises:
        RowError: WEIGHTS, if the file is missing or no JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise weights_error(path, f"cannot be read ({error})") from error
    # diffusers would take a string for the name of a model and look for it on the network.
    if not isinstance(config, dict):
        raise weights_error(path, "cannot be read (it is no JSON object)")
    return config


def weights_error(path: Path, what: str) -> RowError:
    """Return the error for a weight file that `what`, with the one cure they all share."""
    return RowError(
        ErrorCode.WEIGHTS,
        f"{path}: {what}. Download the file again from its source, and check that it belongs to "
        "this variant.",
    )


def _open_safetensors(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise weights_error(path, f"is damaged or incomplete ({first_line(error)})") from error


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = len(names) - _NAMES_SHOWN
    return f"{what} {', '.join(names[:_NAMES_SHOWN])}" + (f" and {more} more" if more > 0 else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
