"""Reads weight files strictly: whatever does not fit is an error that names the file and the cure.

It knows names, shapes and digests, not what the tensors mean.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from lynx_engine.digest import digest_file
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.folders import ModelsPlace
from lynx_engine.weights.digests import check_digests
from lynx_engine.weights.files import place_fault, shard_names, unreadable_letter
from lynx_engine.weights.lock import LOCK_NAME, locked_digests

if TYPE_CHECKING:
    from lynx_engine.variants.spec import VariantSpec

Shapes = Mapping[str, tuple[int, ...]]
Place = TypeVar("Place", bound=ModelsPlace)
_NAMES_SHOWN = 6
_CURE = "Download the file again from its source, and check that it belongs to this variant."


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


def read_pickle(path: Path, *, mapped: bool = False) -> dict[str, torch.Tensor]:
    """Read the named tensors of a `.pth` file to the CPU.

    A `.pth` file is a pickle. It is read with torch's weights-only reader, which builds tensors
    and nothing else.

    Args:
        path: The file.
        mapped: Return views of the mapped file, where its form allows. Its checksums are compared
            only when it is read whole.

    Raises:
        RowError: WEIGHTS, if it is damaged or holds anything else.
    """
    try:
        mapped = mapped and zipfile.is_zipfile(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UnpicklingError as error:
        # torch's words are advice on how to run the code.
        what = "cannot be read as plain tensors: it is damaged, or asks for code to be run"
        raise unreadable(path, what) from error
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        raise unreadable(path, f"cannot be read as plain tensors ({first_line(error)})") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
    ):
        raise weights_error(path, "holds something other than named tensors")
    return tensors


def read_index(path: Path) -> dict[str, str]:
    """Return tensor name -> shard, as a safetensors index lists them.

    Raises:
        RowError: WEIGHTS, if it is no such index, or a shard's name leads out of the folder.
    """
    shards = shard_names(path)
    if outside := [name for name in shards if Path(name).name != name]:
        raise weights_error(path, f"names shards outside its folder ({', '.join(outside)})")
    return json.loads(path.read_text(encoding="utf-8"))["weight_map"]


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
    except OSError as error:
        require_file(path)
        raise unreadable(path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise unreadable(path, f"cannot be read ({error})") from error
    # diffusers would take a string for the name of a model and look for it on the network.
    if not isinstance(config, dict):
        raise weights_error(path, "cannot be read (it is no JSON object)")
    return config


def check_kind(path: Path, found: object, wanted: str) -> None:
    """Accept a config that names the kind of part it should, or none.

    Raises:
        RowError: WEIGHTS.
    """
    if found not in {None, wanted}:
        raise weights_error(path, f"describes {found}, not {wanted}")


def weights_error(path: Path, what: str, *, cure: str = "") -> RowError:
    """Return the error for a weight file that `what`; most faults share one `cure`."""
    return RowError(ErrorCode.WEIGHTS, f"{path}: {what}. {cure or _CURE}")


def require_file(path: Path) -> None:
    """Accept a file that is there.

    Raises:
        RowError: WEIGHTS, saying what stands in its place.
    """
    what, cure = place_fault(path)
    if what:
        raise weights_error(path, what, cure=cure)


def unreadable(path: Path, what: str) -> RowError:
    """Return the error for a file that `what`, saying what it is instead where that shows."""
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError as error:
        return RowError(ErrorCode.WEIGHTS, unreadable_letter(path, error))
    if start.startswith(b"version https://git-lfs"):
        cure = "Fetch the file itself: run `git lfs pull` there, or download it from its source."
        return weights_error(path, "is a git-lfs pointer and not the file", cure=cure)
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        what = "is a web page and not the file: its download was answered by an error page"
    elif not start:
        what = "is empty"
    return weights_error(path, what)


def open_safetensors(path: Path) -> safe_open:
    """Open a safetensors file, whose tensors come as views of the mapped file.

    Raises:
        RowError: WEIGHTS, if it is no such file.
    """
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise unreadable(path, f"is damaged or incomplete ({first_line(error)})") from error


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = len(names) - _NAMES_SHOWN
    return f"{what} {', '.join(names[:_NAMES_SHOWN])}" + (f" and {more} more" if more > 0 else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
