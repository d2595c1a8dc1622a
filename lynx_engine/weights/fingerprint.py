"""One digest that stands for all weights of a variant, taken without reading them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.digest import digest_mapping, sample_file
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.folders import ModelsPlace
from lynx_engine.weights.digests import refuse_at_sight
from lynx_engine.weights.files import required_files, unreadable_letter
from lynx_engine.weights.lock import read_lock

if TYPE_CHECKING:
    from lynx_engine.variants.spec import VariantSpec


def weights_fingerprint(spec: VariantSpec, models_dir: ModelsPlace) -> str:
    """Return what stands for the weights in a job's id.

    Weights made here: their recipe. Downloaded weights: a digest over each file's sha256 where
    `models.lock.json` lists it, and over its size and 64 samples where it does not. It depends on
    no place: the same files elsewhere have the same fingerprint.

    Args:
        spec: The variant.
        models_dir: Where downloaded weights lie, in the public layout.

    Raises:
        RowError: WEIGHTS; names every missing file and where it comes from, every file of
            another size than the lock's, a pickle that the lock does not list, and a file that
            cannot be read.
    """
    if spec.recipe:
        return spec.recipe
    files = required_files(spec, models_dir)
    locked = read_lock(models_dir)
    refuse_at_sight(spec, models_dir, files, locked)
    return digest_mapping(
        {
            path: f"sha256:{locked[path].sha256}"
            if path in locked
            else f"sample:{_sample(models_dir / path)}"
            for path in files
        }
    )


def _sample(path: Path) -> str:
    try:
        return sample_file(path)
    except OSError as error:
        raise RowError(ErrorCode.WEIGHTS, unreadable_letter(path, error)) from error


def encoder_fingerprint(spec: VariantSpec, models_dir: ModelsPlace) -> str:
    """Return what stands for the variant's recogniser alone: variants that share it share this.

    Args:
        spec: A variant with a recogniser.
        models_dir: As for `weights_fingerprint`, as is the form of the digest.

    Raises:
        RowError: WEIGHTS, if `models.lock.json` or the file cannot be read.
    """
    if spec.recipe:
        return f"{spec.recipe}:{spec.face_encoder}"
    locked = read_lock(models_dir)
    if spec.face_encoder in locked:
        return f"sha256:{locked[spec.face_encoder].sha256}"
    return f"sample:{_sample(models_dir / spec.face_encoder)}"
