"""Which weight files a variant, or a set of its own, needs, and whether they are there.

It reads names, never tensors; planning runs it before any worker exists.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.folders import ModelsPlace
from lynx_engine.weights.origins import WeightSet

if TYPE_CHECKING:
    from lynx_engine.variants.spec import VariantSpec
    from lynx_engine.weights.origins import WeightFile

_CONFIGS = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/tokenizer.json",
    "transformer/config.json",
    "vae/config.json",
)
_COMPONENT_WEIGHTS = {
    "text_encoder": "model.safetensors",
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


def needed_files(spec: VariantSpec | WeightSet, models_dir: ModelsPlace) -> tuple[str, ...]:
    """Return the files that are read, there or not, by their names in the public layout.

    A component's shards are those its index speaks of; without an index it is one file.

    Raises:
        RowError: WEIGHTS, if an index is damaged.
    """
    if isinstance(spec, WeightSet):
        return spec.files
    return (*_base_files(models_dir, spec.base), *_adapter_files(spec))


def files_of(weight: WeightFile, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of `names` that are the entry itself or lie in it."""
    return tuple(n for n in names if n == weight.path or n.startswith(f"{weight.path}/"))


def required_files(spec: VariantSpec | WeightSet, models_dir: ModelsPlace) -> tuple[str, ...]:
    """Return the files that are read, by their names in the public layout, in a fixed order.

    Raises:
        RowError: WEIGHTS; names every missing file and where it comes from.
    """
    needed = needed_files(spec, models_dir)
    missing = tuple(path for path in needed if not (models_dir / path).is_file())
    if missing:
        raise RowError(ErrorCode.WEIGHTS, _missing_letter(spec, models_dir, missing))
    return needed


def place_fault(path: Path) -> tuple[str, str]:
    """Return what stands where a file should be, and what to do about it; "" twice for a file.

    Where nothing stands there, there is no more to do than to fetch the file.
    """
    if path.is_file():
        return "", ""
    if path.is_symlink():
        what = f"is a link to {path.readlink()}, which is not there"
        return what, "Mend the link, or put the file itself here."
    if path.is_dir():
        return "is a folder, not a file", "Remove it."
    pickled = sorted(path.parent.glob("*.bin"))
    if path.suffix == ".safetensors" and pickled:
        what = (
            f"is missing; {pickled[0].name} beside it is a pickle, which this engine does not open"
        )
        return what, "Download the safetensors files from the model's source."
    return "is missing", ""


def unreadable_letter(path: Path, error: OSError) -> str:
    """Return the letter for a file that the system does not let us read."""
    return (
        f"{path}: cannot be read ({error.strerror}). Let the user who renders read it, and run "
        "the command again."
    )


def shard_names(index: Path) -> tuple[str, ...]:
    """Return the shard files a safetensors index speaks of, sorted.

    Raises:
        RowError: WEIGHTS, if it cannot be read or is no such index.
    """
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        # Nothing here needs the metadata, but diffusers fails without it.
        weight_map, _ = content["weight_map"], content["metadata"]
        return tuple(sorted({str(name) for name in weight_map.values()}))
    except OSError as error:
        raise RowError(ErrorCode.WEIGHTS, unreadable_letter(index, error)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RowError(
            ErrorCode.WEIGHTS,
            f"{index}: not a safetensors index ({error!r}). Download it again.",
        ) from error


def _base_files(models_dir: ModelsPlace, base: str) -> list[str]:
    needed = [f"{base}/{name}" for name in _CONFIGS]
    for component, name in _COMPONENT_WEIGHTS.items():
        index = f"{base}/{component}/{name}.index.json"
        if (models_dir / index).is_file():
            needed.append(index)
            needed += [f"{base}/{component}/{shard}" for shard in shard_names(models_dir / index)]
        else:
            needed.append(f"{base}/{component}/{name}")
    return needed


def _adapter_files(spec: VariantSpec) -> list[str]:
    if not spec.uses_subject:
        return []
    names = ["resampler", "ip_layers", *(["ref_layers"] if spec.uses_reference else [])]
    return [*(f"{spec.adapters}/{name}.safetensors" for name in names), spec.face_encoder]


def _missing_line(name: str, path: Path, weight: WeightFile) -> str:
    what, cure = place_fault(path)
    if cure:
        return f"{name} {what}. {cure.rstrip('.')}; it comes from {weight.source}"
    return f"{name}: not there; it comes from {weight.source}"


def _missing_letter(
    spec: VariantSpec | WeightSet, models_dir: ModelsPlace, missing: tuple[str, ...]
) -> str:
    lines: list[str] = []
    for weight in spec.weights:
        own = files_of(weight, missing)
        place = models_dir / weight.path
        if own and not (place.exists() or place.is_symlink()):
            lines.append(f"{weight.path}: not there; it comes from {weight.source}")
        else:
            lines += [_missing_line(path, models_dir / path, weight) for path in own]
    return (
        f"{models_dir}: weights of {spec.name} are missing: {'; '.join(lines)}. "
        f"`lynx-engine models pull {spec.name}` fetches them; LYNX_MODELS or --models names "
        "another folder."
    )
