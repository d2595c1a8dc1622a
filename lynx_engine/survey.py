"""Looks at the world for planning: photos, weights, the log, the clips that are there, faces.

Everything `plan_renders` decides on is gathered here, so that deciding itself stays pure. It
loads no torch: faces are found with OpenCV, weights are told apart by sampling their files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.consent import utc_today
from lynx_engine.errors import Problem, RowError
from lynx_engine.identity.detect import detector_name
from lynx_engine.identity.evaluators import evaluator_name
from lynx_engine.identity.withdrawals import read_withdrawals, withdrawn
from lynx_engine.manifest_rules import Rule
from lynx_engine.media.images import PhotoHeader, inspect_photo
from lynx_engine.models.lora_file import (
    PEFT_NEEDED,
    added_numbers,
    fit_fault,
    inspect_lora,
    transformer_layers,
)
from lynx_engine.planning import LoraFacts, PhotoFacts, PlanFacts, subject_digest
from lynx_engine.provenance.environment import keyed_digest, read_workspace_key
from lynx_engine.provenance.past import History, history_of
from lynx_engine.provenance.store import FOLDER as LOG_FOLDER
from lynx_engine.provenance.store import read_parts
from lynx_engine.safety.classifiers import installed_classifiers
from lynx_engine.settings import Settings, load_settings
from lynx_engine.variants import REGISTRY, check_entries, get_variant
from lynx_engine.weights.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    import polars as pl

    from lynx_engine.manifest.values import Manifest, Subject

CLIPS_FOLDER = "clips"
POSTERS_FOLDER = "posters"


def poster_name(clip: str) -> str:
    """Return the file name of a clip's poster in its own folder, by the clip's file name."""
    return f"{clip.removesuffix('.mp4')}.jpg"


def gather_facts(manifest: Manifest, settings: Settings | None = None) -> PlanFacts:
    """Look at everything a plan for `manifest` depends on.

    Photos, weights and LoRAs that cannot be used become problems of the rows that need them.

    Raises:
        DamagedError: If the campaign's log or the register of withdrawals is damaged.
        RefusedError: If the settings are wrong.
    """
    settings = settings or load_settings()
    check_entries(settings.model_paths)
    evaluator = evaluator_name(settings.evaluator)
    photos: dict[str, tuple[PhotoFacts, ...]] = {}
    photo_problems: dict[str, tuple[Problem, ...]] = {}
    inspect = cache(inspect_photo)  # many subjects may share a photo
    for subject in manifest.subjects.values():
        found, problems = _photos_of(subject, inspect)
        if problems:
            photo_problems[subject.name] = problems
        else:
            photos[subject.name] = found
    weights: dict[str, str] = {}
    weights_problems: dict[str, tuple[Problem, ...]] = {}
    for name in REGISTRY:
        try:
            weights[name] = weights_fingerprint(get_variant(name), settings.models_dir)
        except RowError as error:
            weights_problems[name] = (Problem(name, str(error), Rule.MISSING_WEIGHTS),)
        except OSError as error:
            text = (
                f"{error.filename}: cannot be read ({error.strerror}). Let the user who renders "
                "read it, and run the command again."
            )
            weights_problems[name] = (Problem(name, text, Rule.MISSING_WEIGHTS),)
    folder = settings.campaign_dir(manifest.campaign)
    log = read_parts(folder / LOG_FOLDER)
    if not log.is_empty():
        log = _with_plain_digests(log, photos, read_workspace_key(settings.state_dir))
    history = history_of(log)
    return PlanFacts(
        photos=photos,
        photo_problems=photo_problems,
        weights=weights,
        weights_problems=weights_problems,
        loras=_lora_facts(manifest, settings),
        latest=history.latest,
        by_job=history.by_job,
        attempts=history.attempts,
        clips=intact_clips(folder / CLIPS_FOLDER, history),
        today=utc_today(),
        face_detector=detector_name(),
        classifiers=installed_classifiers(settings),
        evaluator=evaluator,
        consent=settings.consent,
        withdrawn=_withdrawn_subjects(manifest, photos, settings),
    )


def _withdrawn_subjects(
    manifest: Manifest, photos: Mapping[str, tuple[PhotoFacts, ...]], settings: Settings
) -> dict[str, str]:
    """Return why subjects count as withdrawn, by name, of those that do."""
    register = read_withdrawals(settings)
    if not register.entries:
        return {}
    key = read_workspace_key(settings.state_dir)
    why = {
        name: withdrawn(register, name, [photo.digest for photo in photos.get(name, ())], key)
        for name in manifest.subjects
    }
    return {name: text for name, text in why.items() if text}


def _photos_of(
    subject: Subject, inspect: Callable[[Path], PhotoHeader]
) -> tuple[tuple[PhotoFacts, ...], tuple[Problem, ...]]:
    """Return the headers of a subject's photos, and what is wrong with any of them."""
    found: list[PhotoFacts] = []
    problems: list[Problem] = []
    seen: dict[str, Path] = {}
    for image in subject.images:
        try:
            header = inspect(image)
        except RowError as error:
            problems.append(Problem(subject.where, str(error), Rule.BAD_PHOTO))
        else:
            found.append(PhotoFacts(header.digest, header.width_px, header.height_px))
            first = seen.setdefault(header.digest, image)
            if len(found) > len(seen):
                text = twice_letter(subject.name, first, image)
                problems.append(Problem(subject.where, text, Rule.SAME_PHOTO))
                found.pop()
    return tuple(found), tuple(problems)


def twice_letter(subject: str, first: Path, second: Path) -> str:
    """Return the letter about two photos of a subject that are one file's bytes."""
    which = (
        f"{second} is listed twice"
        if first == second
        else f"{first} and {second} are the same photo, byte for byte"
    )
    return f"subject '{subject}': {which}, which would count it double; remove one"


def _lora_facts(manifest: Manifest, settings: Settings) -> dict[Path, LoraFacts]:
    """Return what is known of every LoRA that a row asks for, held against the row's variant."""
    own = manifest.defaults
    asked = {
        (own.loras if row.settings.loras is None else row.settings.loras,
         row.settings.variant or own.variant)
        for row in (*manifest.rows, *manifest.suspects)
    }  # fmt: skip
    wanted: dict[Path, set[str]] = {}
    for loras, variant in asked:
        for lora in loras or ():
            wanted.setdefault(lora.path, set()).add(variant or "")
    return {
        path: _inspected(path, variants & REGISTRY.keys(), settings)
        for path, variants in wanted.items()
    }


def _inspected(path: Path, variants: Collection[str], settings: Settings) -> LoraFacts:
    whole = path.resolve()
    if find_spec("peft") is None:
        return LoraFacts(whole, "", dict.fromkeys(variants, PEFT_NEEDED))
    try:
        header = inspect_lora(path)
    except RowError as error:
        return LoraFacts(whole, "", dict.fromkeys(variants, str(error)))
    fits = {
        name: fit_fault(header, layers)
        for name in variants
        if (layers := transformer_layers(get_variant(name), settings.models_dir)) is not None
    }
    faults = {name: f"LoRA {path} {fault}" for name, fault in fits.items() if fault}
    return LoraFacts(whole, header.digest, faults, added_numbers(header))


def intact_clips(folder: Path, history: History) -> frozenset[str]:
    """Return the names of the clips that are there with the size that was recorded.

    Enough to see a deleted, emptied or cut clip without reading a night's work again.
    """
    there = file_sizes(folder)
    return frozenset(n for n, size in history.clip_bytes.items() if there.get(n) == size)


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the name and size of each file in a folder, none if it is not there.

    One listing: to ask for a hundred thousand names one by one takes ten times as long.

    Raises:
        OSError: If the folder cannot be listed.
    """
    sizes: dict[str, int] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # deleted meanwhile
                    if entry.is_file():
                        sizes[entry.name] = entry.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return sizes


def _with_plain_digests(
    log: pl.DataFrame, photos: Mapping[str, tuple[PhotoFacts, ...]], key: bytes | None
) -> pl.DataFrame:
    """Name a past photo by its plain digest where it is one of today's `photos`.

    The log keeps keyed digests only. A photo that is not here any more keeps its keyed one, which
    equals no plain digest: the photo has changed.
    """
    import polars as pl

    if key is None:
        return log
    digests = (subject_digest(found) for found in photos.values())
    plain = {keyed_digest(digest, key): digest for digest in digests}
    return log.with_columns(pl.col("subject_digest").replace(plain))
