"""Reads what a LoRA file says of itself, and whether it fits a Wan transformer.

Only the header is understood here; the tensors are hashed and not looked at. Loads no torch:
planning refuses a LoRA that cannot be laid over its variant before any worker exists. Three
namings are known, those that diffusers' Wan loader reads: its own (`transformer.`), the original
Wan model's (`diffusion_model.`), and kohya's (`lora_unet_`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.models.tiny_layout import TRANSFORMER

if TYPE_CHECKING:
    from lynx_engine.folders import ModelsPlace
    from lynx_engine.variants.spec import VariantSpec

MAX_BYTES = 4_000_000_000
_MAX_HEADER_BYTES = 16_000_000
_CHUNK_BYTES = 1 << 20
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
_SCALAR_WIDTHS = {**_WIDTHS, "F64": 8, "I64": 8, "I32": 4}  # of alpha
_NAMES_SHOWN = 20
# Where diffusers notes the rank and alpha of an adapter it saved.
METADATA_KEY = "lora_adapter_metadata"
UNKNOWN_LICENCE = "unknown"
# The first as the ModelSpec standard names it, then what exporters write.
_LICENCE_KEYS = ("modelspec.license", "license", "licence")
_MAX_LICENCE = 200
PEFT_NEEDED = "LoRAs need the package peft, which is not installed: pip install 'peft>=0.21,<0.22'"

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LoraHeader:
    """What a LoRA file holds.

    Attributes:
        digest: sha256 of the file.
        tensors: Name -> shape.
        licence: What the file says of its licence, or "unknown".
    """

    digest: str
    tensors: Mapping[str, Shape]
    licence: str = UNKNOWN_LICENCE


def inspect_lora(path: Path) -> LoraHeader:
    """Read a LoRA's header and digest; the same file is read once a process.

    Raises:
        RowError: LORA, if it is no regular safetensors file of plain floats within the limit; the
            message names the fault and what to do.
    """
    try:
        # O_NONBLOCK: opening a named pipe nobody writes to would otherwise wait forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise lora_error(
            path, "does not exist. Check the path; it is read from the manifest's folder"
        ) from None
    except OSError as error:
        raise lora_error(path, f"cannot be opened ({error.strerror})") from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
            raise lora_error(path, f"is {kind}. Name a .safetensors file")
        if facts.st_size > MAX_BYTES:
            raise lora_error(
                path,
                f"has {facts.st_size / 1e9:.1f} GB; the limit is {MAX_BYTES / 1e9:.0f} GB, and "
                "a LoRA of rank 64 has 0.6. Extract it with a lower rank, or in BF16",
            )
        return _read(path, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    finally:
        os.close(descriptor)


def lora_error(path: Path, fault: str) -> RowError:
    """Return the error for a LoRA file; `fault` goes on after its name, without a full stop."""
    return RowError(ErrorCode.LORA, f"LoRA {path} {fault}.")


# A night of 600 MB files is not hashed again for every look at the plan.
@lru_cache(maxsize=256)
def _read(path: Path, inode: int, size: int, changed_ns: int) -> LoraHeader:
    del inode, changed_ns  # they tell one content of a path from the next
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise lora_error(path, "is no safetensors file. Convert it to one")
            header = file.read(length)
            digest.update(start + header)
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise lora_error(path, f"cannot be read ({error.strerror})") from None
    tensors = _tensors(path, header, size - 8 - length)
    return LoraHeader(digest.hexdigest(), tensors, _licence(header))


def _licence(header: bytes) -> str:
    """Return the licence that a whole header's metadata name, on one line and of bounded length."""
    metadata = json.loads(header).get("__metadata__")
    named = metadata if isinstance(metadata, dict) else {}
    texts = (" ".join(str(named.get(key, "")).split()) for key in _LICENCE_KEYS)
    return next((text[:_MAX_LICENCE] for text in texts if text), UNKNOWN_LICENCE)


def _tensors(path: Path, header: bytes, data_bytes: int) -> dict[str, Shape]:
    try:
        content = json.loads(header)
        content.pop("__metadata__", None)
        found = {
            name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in content.items()
        }
        ends = [(begin, end) for _, _, begin, end in found.values()]
        total = sum(end - begin for begin, end in ends)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise lora_error(path, "has a damaged header. Download or export it again") from None
    if not found:
        raise lora_error(path, "holds no tensors. Download or export it again")
    if total != data_bytes or max(end for _, end in ends) != data_bytes:
        raise lora_error(
            path,
            f"is incomplete: its header speaks of {total:,} bytes of numbers and {data_bytes:,} "
            "are there. Download or export it again",
        )
    kinds = {
        str(dtype)
        for dtype, shape, *_ in found.values()
        if dtype not in (_WIDTHS if shape else _SCALAR_WIDTHS)
    }
    if kinds:
        raise lora_error(
            path, f"holds {', '.join(sorted(kinds))} numbers. Save it as BF16, F16 or F32"
        )
    for name, (dtype, shape, begin, end) in found.items():
        whole = all(isinstance(n, int) and n >= 0 for n in shape)
        if not whole or math.prod(shape) * _SCALAR_WIDTHS[dtype] != end - begin:
            raise lora_error(path, f"has a damaged header at {name}. Download or export it again")
    return {name: shape for name, (_, shape, _, _) in found.items()}


def transformer_layers(
    spec: VariantSpec, models_dir: ModelsPlace
) -> dict[str, tuple[int, int]] | None:
    """Return `layer_shapes` of a variant's base model; None while its files are not in order.

    Those files have a letter of their own.
    """
    if not spec.base:
        return None
    try:
        if spec.builder:
            return layer_shapes(TRANSFORMER)  # every recipe is one of the tiny layout
        config = models_dir / f"{spec.base}/transformer/config.json"
        return layer_shapes(json.loads(config.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def layer_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the layers of a Wan transformer that a LoRA may change: name -> (out, in).

    Args:
        config: The transformer's `config.json`.

    Raises:
        KeyError: If it lacks a size.
        TypeError: If a size is no number.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    ffn = config["ffn_dim"]
    shapes = {
        "condition_embedder.time_embedder.linear_1": (width, config["freq_dim"]),
        "condition_embedder.time_embedder.linear_2": (width, width),
        "condition_embedder.time_proj": (6 * width, width),
        "condition_embedder.text_embedder.linear_1": (width, config["text_dim"]),
        "condition_embedder.text_embedder.linear_2": (width, width),
        "proj_out": (config["out_channels"] * math.prod(config["patch_size"]), width),
    }
    for n in range(config["num_layers"]):
        for attention in ("attn1", "attn2"):
            for part in _ATTENTION.values():
                shapes[f"blocks.{n}.{attention}.{part}"] = (width, width)
        shapes[f"blocks.{n}.ffn.net.0.proj"] = (ffn, width)
        shapes[f"blocks.{n}.ffn.net.2"] = (width, ffn)
    return shapes


def fit_fault(header: LoraHeader, layers: Mapping[str, tuple[int, int]]) -> str:
    """Return why a LoRA cannot be laid over these layers, or "".

    Args:
        header: The LoRA.
        layers: Name -> (out, in), as `layer_shapes` gives them.
    """
    naming = _naming_of(header.tensors)
    text = [name for name in header.tensors if name.startswith(_TEXT_ENCODER)]
    if text:
        return (
            f"changes the text encoder ({_listed(text)}), whose texts are shared by all rows. "
            "Export it again for the transformer alone"
        )
    parts: dict[str, dict[str, Shape]] = {}
    strangers: list[str] = []
    for name, shape in header.tensors.items():
        found = _placed(name, naming)
        if found is None or (found[0] not in layers and found[1] != _LEFT_OUT):
            strangers.append(name)
        elif found[1] != _LEFT_OUT:
            parts.setdefault(found[0], {})[found[1]] = shape
    if strangers:
        return (
            f"fits no layer of this model with {len(strangers)} of its {len(header.tensors)} "
            f"tensors: {_listed(strangers)}. Use a LoRA made for Wan2.1 text to video"
        )
    faults = [
        fault for layer, found in parts.items() for fault in _misfits(layer, found, layers[layer])
    ]
    if naming == _KOHYA:
        faults += _kohya_gaps(parts)
    if faults:
        return f"does not fit this model: {_listed(faults)}. Use a LoRA made for its size"
    return ""


def added_numbers(header: LoraHeader) -> int:
    """Return how many numbers a LoRA adds to the model it is laid over."""
    passed_over = set(left_out(header))
    laid = (shape for name, shape in header.tensors.items() if name not in passed_over)
    return sum(map(math.prod, laid))


def left_out(header: LoraHeader) -> list[str]:
    """Return the tensors that diffusers' loader passes over: whole differences of norms and biases.

    Public step-distilled LoRAs hold some.
    """
    naming = _naming_of(header.tensors)
    return [name for name in header.tensors if (_placed(name, naming) or ("", ""))[1] == _LEFT_OUT]


_DIFFUSERS, _ORIGINAL, _KOHYA = "transformer.", "diffusion_model.", "lora_unet_"
_TEXT_ENCODER = ("text_encoder", "lora_te")
_LEFT_OUT = "left out"
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
_ATTENTIONS = {"self_attn": "attn1", "cross_attn": "attn2"}
_FFN = {"0": "net.0.proj", "2": "net.2"}
_REST = {
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    **{
        f"{kind}_embedding.{n}": f"condition_embedder.{kind}_embedder.linear_{n // 2 + 1}"
        for kind in ("time", "text")
        for n in (0, 2)
    },
}
_PARTS = {
    ".lora_A.weight": "lora_A",
    ".lora_down.weight": "lora_A",
    ".lora_B.weight": "lora_B",
    ".lora_up.weight": "lora_B",
    ".lora_B.bias": "bias",
    ".diff_b": "bias",
    ".diff": "whole",
    ".alpha": "alpha",
}
_PARTS_OF = {
    _DIFFUSERS: (".lora_A.weight", ".lora_B.weight", ".lora_B.bias"),
    _ORIGINAL: tuple(part for part in _PARTS if part != ".lora_B.bias"),
    _KOHYA: (".lora_down.weight", ".lora_up.weight", ".alpha"),
}
_BLOCK = re.compile(r"blocks[._](\d+)[._](?:(self_attn|cross_attn)[._]([qkvo])|ffn[._]([02]))")


def _naming_of(names: Mapping[str, Shape]) -> str:
    counted = {
        naming: sum(name.startswith(naming) for name in names)
        for naming in (_DIFFUSERS, _ORIGINAL, _KOHYA)
    }
    return max(counted, key=lambda naming: counted[naming])


def _placed(name: str, naming: str) -> tuple[str, str] | None:
    """Return the layer and part that a tensor is for, None if nobody knows it.

    The part is "left out" for what diffusers passes over.
    """
    if not name.startswith(naming):
        return None
    inner = name.removeprefix(naming)
    ending = next((end for end in _PARTS_OF[naming] if inner.endswith(end)), None)
    if ending is None:
        return None
    theirs, part = inner.removesuffix(ending), _PARTS[ending]
    if naming == _DIFFUSERS:
        return theirs, part
    ours = _layer_of(theirs, naming)
    if ending in {".diff", ".diff_b"} and (ours is None or (part, ours) == ("whole", "proj_out")):
        # The head's difference is taken as a LoRA of full rank; of the rest nothing is.
        return (theirs, _LEFT_OUT) if ours is None else (ours, "lora_A")
    if ours is None or part == "whole" or (part == "alpha" and theirs in _REST):
        return None
    return ours, part


def _layer_of(theirs: str, naming: str) -> str | None:
    match = _BLOCK.fullmatch(theirs)
    if match is None:
        return _REST.get(theirs) if naming == _ORIGINAL else None
    number, attention, part, ffn = match.groups()
    if attention:
        return f"blocks.{int(number)}.{_ATTENTIONS[attention]}.{_ATTENTION[part]}"
    return f"blocks.{int(number)}.ffn.{_FFN[ffn]}"


def _misfits(layer: str, found: Mapping[str, Shape], size: tuple[int, int]) -> Iterator[str]:
    """Yield what is wrong with the parts of one layer."""
    out, width = size
    down, up = found.get("lora_A"), found.get("lora_B")
    if down == size and up is None and layer == "proj_out":
        up = (out, out)  # the head's difference: diffusers writes the other factor itself
    for part, shape in (("lora_A", down), ("lora_B", up)):
        if shape is None:
            yield f"{layer} has no {part}"
    if down is None or up is None:
        return
    rank = down[0] if down else 0
    expected = {"lora_A": (rank, width), "lora_B": (out, rank)}
    for part, shape in (("lora_A", down), ("lora_B", up)):
        if shape != expected[part] or rank == 0:
            yield f"{layer} {part} {list(shape)} instead of {list(expected[part])}"
    if "bias" in found and found["bias"] != (out,):
        yield f"{layer} bias {list(found['bias'])} instead of {[out]}"
    if "alpha" in found and math.prod(found["alpha"]) != 1:
        yield f"{layer} alpha {list(found['alpha'])} instead of one number"


def _kohya_gaps(parts: Mapping[str, Mapping[str, Shape]]) -> Iterator[str]:
    """Yield what diffusers' loader wants of a file in kohya's naming: every layer, with alpha."""
    numbers = {int(layer.split(".")[1]) for layer in parts}
    for n in range(len(numbers)):
        layers = [f"attn{a}.{part}" for a in (1, 2) for part in _ATTENTION.values()]
        for layer in (*layers, *(f"ffn.{part}" for part in _FFN.values())):
            if "alpha" not in parts.get(f"blocks.{n}.{layer}", {}):
                yield f"blocks.{n}.{layer} is missing or has no alpha"


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
