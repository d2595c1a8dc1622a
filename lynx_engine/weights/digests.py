"""Checks weight files against `models.lock.json` before anything reads a tensor of them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.digest import digest_file
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.folders import ModelsPlace, bytes_in_words, folders_of
from lynx_engine.weights.files import required_files, unreadable_letter
from lynx_engine.weights.lock import LOCK_NAME, LockedFile, alone, read_lock
from lynx_engine.weights.stamps import digest_and_stamp, is_stamped, read_stamps

if TYPE_CHECKING:
    from lynx_engine.variants.spec import VariantSpec
    from lynx_engine.weights.origins import WeightSet

logger = logging.getLogger(__name__)

_PICKLES = (".pth", ".pt", ".bin", ".ckpt")


def check_digests(
    spec: VariantSpec | WeightSet, models_dir: ModelsPlace, *, cache_dir: Path
) -> dict[str, str]:
    """Accept a variant's downloaded files as the ones the lock lists; loading calls this first.

    A file that was verified before and has the size, time and inode it had then is not hashed
    again. Damage that keeps all three (a failing disk) goes unseen here: `lynx-engine models
    verify` reads every byte. Of several processes that load at once, one hashes.

    Args:
        spec: A variant whose weights are downloaded, or a set of its own.
        models_dir: Where they lie.
        cache_dir: Where it is remembered what was verified.

    Returns:
        Name in the public layout -> sha256, of the files that the lock lists.

    Raises:
        RowError: WEIGHTS; names every file that is missing, cannot be read, differs from the
            lock, or is a pickle that the lock does not list, and its source.
    """
    files = required_files(spec, models_dir)
    locked = read_lock(models_dir)
    refuse_at_sight(spec, models_dir, files, locked)
    listed = {name: locked[name] for name in files if name in locked}
    if _unverified(listed, models_dir, cache_dir):
        with _one_at_a_time(cache_dir):
            wrong = list(_refused_by_digest(spec, listed, models_dir, cache_dir))
        if wrong:
            raise RowError(ErrorCode.WEIGHTS, " ".join(wrong))
    return {name: entry.sha256 for name, entry in listed.items()}


def refuse_at_sight(
    spec: VariantSpec | WeightSet,
    models_dir: ModelsPlace,
    files: Iterable[str],
    locked: Mapping[str, LockedFile],
) -> None:
    """Refuse what can be seen without reading a file: another size, an unlisted pickle.

    Raises:
        RowError: WEIGHTS; names every such file.
    """
    wrong: list[str] = []
    for name in files:
        path, entry = models_dir / name, locked.get(name)
        if entry is None:
            wrong += [_unlisted_letter(path)] if path.suffix in _PICKLES else []
            continue
        size = path.stat().st_size
        if entry.size is not None and size != entry.size:
            found = f"has {size} bytes ({bytes_in_words(size)})"
            wrong.append(_letter(path, found, entry, spec, says=f"{entry.size} bytes"))
    if wrong:
        raise RowError(ErrorCode.WEIGHTS, " ".join(wrong))


def check_pickle(path: Path, models_dir: ModelsPlace) -> None:
    """Accept a pickle that the lock lists, once all its bytes had the listed sha256.

    Raises:
        RowError: WEIGHTS, if the lock does not list it, or lists another digest, or it cannot be
            read.
    """
    entry = read_lock(models_dir).get(folders_of(models_dir).name_of(path))
    if entry is None:
        raise RowError(ErrorCode.WEIGHTS, _unlisted_letter(path))
    try:
        found = digest_file(path)
    except OSError as error:
        raise RowError(ErrorCode.WEIGHTS, unreadable_letter(path, error)) from error
    if found != entry.sha256:
        raise RowError(ErrorCode.WEIGHTS, _letter(path, f"has sha256 {found}", entry))


def _unverified(
    listed: Mapping[str, LockedFile], models_dir: ModelsPlace, cache_dir: Path
) -> list[str]:
    stamps = read_stamps(cache_dir)
    return [n for n, e in listed.items() if not is_stamped(models_dir / n, e.sha256, stamps)]


def _refused_by_digest(
    spec: VariantSpec | WeightSet,
    listed: Mapping[str, LockedFile],
    models_dir: ModelsPlace,
    cache_dir: Path,
) -> Generator[str]:
    """Hash what no stamp vouches for; a process that waited finds the stamps of the first.

    Yields:
        A letter for each file that differs, or cannot be read.
    """
    for name in _unverified(listed, models_dir, cache_dir):
        path = models_dir / name
        logger.info("verifying %s (%s)", path, bytes_in_words(path.stat().st_size))
        try:
            found = digest_and_stamp(path, cache_dir)
        except OSError as error:
            yield unreadable_letter(path, error)
        else:
            if found != listed[name].sha256:
                yield _letter(path, f"has sha256 {found}", listed[name], spec)


@contextlib.contextmanager
def _one_at_a_time(cache_dir: Path) -> Generator[None]:
    with contextlib.ExitStack() as stack:
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone(cache_dir / ".verifying"))
        except OSError as error:
            logger.warning("%s: %s; each process verifies for itself", cache_dir, error)
        yield


def _letter(
    path: Path,
    found: str,
    entry: LockedFile,
    spec: VariantSpec | WeightSet | None = None,
    says: str = "",
) -> str:
    source = f" ({entry.source})" if entry.source else ""
    pull = f": `lynx-engine models pull {spec.name} --replace`" if spec is not None else ""
    return (
        f"{path}: {found}, {LOCK_NAME} says {says or entry.sha256}; it was not opened. "
        f"Download the file again from its source{source}{pull}."
    )


def _unlisted_letter(path: Path) -> str:
    return (
        f"{path}: a pickle, which is opened only after its sha256 matched, and {LOCK_NAME} does "
        "not list it. `lynx-engine models pull` lists it; without a network, `lynx-engine models "
        "verify --record` lists the files that are there as they are, if you trust them."
    )
