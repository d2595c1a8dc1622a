"""Which weight files a variant needs, whether they are there, and one digest that stands for them.

Loads no torch and reads no tensor: planning runs it before any worker exists.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.digest import digest_file, digest_mapping, sample_file
from lynx_engine.errors import ErrorCode, RowError

if TYPE_CHECKING:
    from lynx_engine.variants.spec import VariantSpec

LOCK_NAME = "models.lock.json"
_SHA256 = re.compile("[0-9a-f]{64}")

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


def weights_fingerprint(spec: VariantSpec, models_dir: Path) -> str:
    """Return what stands for the weights in a job's id.

    Weights made here: their recipe. Downloaded weights: a digest over each file's sha256 where
    `models.lock.json` lists it, and over its size and 64 samples where it does not.

    Args:
        spec: The variant.
        models_dir: Where downloaded weights lie, in the public layout.

    Raises:
        RowError: WEIGHTS; names every missing file and where it comes from.
    """
    if spec.recipe:
        return spec.recipe
    files = required_files(spec, models_dir)
    locked = locked_digests(models_dir)
    return digest_mapping(
        {
            path: f"sha256:{locked[path]}"
            if path in locked
            else f"sample:{sample_file(models_dir / path)}"
            for path in files
        }
    )


def required_files(spec: VariantSpec, models_dir: Path) -> tuple[str, ...]:
    """Return the files the variant reads, relative to `models_dir`, in a fixed order.

    Raises:
        RowError: WEIGHTS; names every missing file and where it comes from.
    """
    files, missing = _base_files(models_dir, spec.base)
    for path in _adapter_files(spec):
        (files if (models_dir / path).is_file() else missing).append(path)
    if missing:
        raise RowError(ErrorCode.WEIGHTS, _missing_letter(spec, models_dir, missing))
    return tuple(files)


def locked_digests(models_dir: Path) -> dict[str, str]:
    """Return path -> sha256 as `models.lock.json` lists them; {} when there is no such file.

    Raises:
        RowError: WEIGHTS, if the lock file is there and is not `{"files": {path: {"sha256"}}}`.
    """
    lock = models_dir / LOCK_NAME
    if not lock.is_file():
        return {}
    try:
        files = json.loads(lock.read_text(encoding="utf-8"))["files"]
        locked = {str(path): str(facts["sha256"]).lower() for path, facts in files.items()}
        if wrong := [path for path, digest in locked.items() if not _SHA256.fullmatch(digest)]:
            raise ValueError(f"no sha256: {', '.join(wrong)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RowError(
            ErrorCode.WEIGHTS,
            f'{lock}: not a lock file, which holds {{"files": {{path: {{"sha256": ...}}}}}} '
            f"({error!r}). Mend or delete it.",
        ) from error
    return locked


def write_lock(folder: Path) -> None:
    """List the sha256 of every file below `folder` in its `models.lock.json`.

    Raises:
        OSError: If a file cannot be read, or the lock not written.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {p.relative_to(folder).as_posix(): {"sha256": digest_file(p)} for p in files}
    text = json.dumps({"files": listed}, indent=2)
    (folder / LOCK_NAME).write_text(text, encoding="utf-8")


def shard_names(index: Path) -> tuple[str, ...]:
    """Return the shard files a safetensors index speaks of, sorted.

    Raises:
        RowError: WEIGHTS, if it is no such index.
    """
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        # Nothing here needs the metadata, but diffusers fails without it.
        weight_map, _ = content["weight_map"], content["metadata"]
        return tuple(sorted({str(name) for name in weight_map.values()}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RowError(
            ErrorCode.WEIGHTS,
            f"{index}: not a safetensors index ({error!r}). Download it again.",
        ) from error


def _base_files(models_dir: Path, base: str) -> tuple[list[str], list[str]]:
    present: list[str] = []
    missing: list[str] = []
    wanted = [f"{base}/{name}" for name in _CONFIGS]
    for component, name in _COMPONENT_WEIGHTS.items():
        index = f"{base}/{component}/{name}.index.json"
        if (models_dir / index).is_file():
            wanted.append(index)
            wanted += [f"{base}/{component}/{shard}" for shard in shard_names(models_dir / index)]
        else:
            wanted.append(f"{base}/{component}/{name}")
    for path in wanted:
        (present if (models_dir / path).is_file() else missing).append(path)
    return present, missing


def _adapter_files(spec: VariantSpec) -> list[str]:
    if not spec.uses_subject:
        return []
    names = ["resampler", "ip_layers", *(["ref_layers"] if spec.uses_reference else [])]
    return [*(f"{spec.adapters}/{name}.safetensors" for name in names), spec.face_encoder]


def _missing_letter(spec: VariantSpec, models_dir: Path, missing: list[str]) -> str:
    lines: list[str] = []
    for weight in spec.weights:
        own = [p for p in missing if p == weight.path or p.startswith(f"{weight.path}/")]
        if own and not (models_dir / weight.path).exists():
            lines.append(f"{weight.path}: not there; it comes from {weight.source}")
        else:
            lines += [f"{path}: not there; it comes from {weight.source}" for path in own]
    return (
        f"{models_dir}: weights of {spec.name} are missing: {'; '.join(lines)}. "
        "Download them into this folder, or name the folder they are in by LYNX_MODELS."
    )
