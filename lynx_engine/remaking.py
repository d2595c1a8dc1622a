"""From a clip's record back to the one-row manifest that makes it again.

What shaped the pixels is written out, every setting of it, and held against the record once more
through the planner itself. Nothing is invented: what is gone or changed since is a letter, and a
consent is written as it was recorded.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lynx_engine.consent import SYNTHETIC, UNCHECKED
from lynx_engine.digest import digest_file
from lynx_engine.errors import Problem, ProblemsError, RefusedError
from lynx_engine.history import describe_changes
from lynx_engine.jobs import REQUEST_FIELDS, RenderJob
from lynx_engine.manifest.names import check_name
from lynx_engine.manifest.read import read_manifest
from lynx_engine.manifest.values import NO_SUBJECT
from lynx_engine.manifest.write import as_yaml
from lynx_engine.planning import plan_renders
from lynx_engine.provenance.environment import (
    keyed_digest,
    read_environment,
    read_workspace_key,
)
from lynx_engine.survey import gather_facts
from lynx_engine.variants import REGISTRY

if TYPE_CHECKING:
    from lynx_engine.provenance.trace import Record
    from lynx_engine.settings import Settings

_AGAIN = "-again"
_LONGEST_NAME = 64
_VERSIONS = {
    "engine_version": "lynx_engine",
    "torch_version": "torch",
    "diffusers_version": "diffusers",
    "platform": "platform",
}


@dataclass(frozen=True, slots=True)
class Remake:
    """How a clip can be made again here.

    Attributes:
        record: Its row of the log.
        values: The manifest, with absolute paths.
        job: The request that the manifest makes here; None if it is refused here.
        refusals: Why the same clip cannot be made again here; then `values` is not to be used.
        warnings: What keeps it from being rendered today, and why pixels may differ.
    """

    record: Record
    values: Mapping[str, Any]
    job: RenderJob | None
    refusals: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    def text(self, folder: Path | None = None) -> str:
        """Return the manifest as YAML that reads back to the very same texts.

        Args:
            folder: Where it will lie: paths are written relative to it. None keeps them absolute.
        """
        values = self.values if folder is None else _moved(self.values, folder.resolve())
        made = str(self.record["clip"] or self.record["job_id"])
        return f"# Makes {made} again, as its record has it.\n{as_yaml(values)}"


def _moved(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a manifest whose paths are relative to `folder`."""
    defaults: dict[str, Any] = values["defaults"]
    loras = [
        {**lora, "weights": os.path.relpath(lora["weights"], folder)} for lora in defaults["loras"]
    ]
    subjects = {
        name: {**entry, "image": [os.path.relpath(image, folder) for image in entry["image"]]}
        for name, entry in values.get("subjects", {}).items()
    }
    moved = {**values, "defaults": {**defaults, "loras": loras}}
    return {**moved, "subjects": subjects} if subjects else moved


def remake(record: Record, settings: Settings) -> Remake:
    """Say how the clip of a record is made again on this machine.

    Args:
        record: Every column of one row of the log.
        settings: The workspace that the record belongs to.

    Raises:
        DamagedError: If the workspace key or the register of withdrawals is damaged.
        RefusedError: If the settings are wrong.
        OSError: If the disk refuses.
    """
    key = read_workspace_key(settings.state_dir)
    refusals = [
        *_variant_faults(record),
        *_photo_faults(record, settings, key),
        *_lora_faults(record, settings),
    ]
    values = manifest_values(record, settings.workspace.resolve())
    warnings = [*_consent_warnings(record), *_version_warnings(record)]
    job = None
    if not refusals:
        try:
            job, told = _planned(values, settings)
        except RefusedError as error:
            told = [replace(p, text=f"refused today: {p.text}") for p in error.problems]
        warnings += told
    for field, change in _differences(record, job, key) if job is not None else ():
        problem = Problem(str(record["clip"] or record["job_id"]), _changed(field, change))
        (warnings if field == "face_detector" else refusals).append(problem)
    return Remake(record, values, job, tuple(refusals), tuple(warnings))


def manifest_values(record: Record, workspace: Path) -> dict[str, Any]:
    """Return the one-row manifest of a record, with absolute paths and every setting written.

    Args:
        record: Every column of one row of the log.
        workspace: What the record's relative paths are relative to; absolute.
    """
    name, prompt_name = str(record["subject"]), str(record["prompt_name"])
    row: dict[str, Any] = {"seed": rendered_seed(record)}
    subjects: dict[str, Any] = {}
    if record["subject_digest"] and name != NO_SUBJECT:
        row["subject"] = name
        images = [str(workspace / photo) for photo in json.loads(record["photos"])]
        subjects[name] = {"image": images, **_face(record), **_consent(record)}
    prompts: dict[str, str] = {}
    try:
        prompts[check_name(prompt_name)] = str(record["prompt"])
        row["prompt"] = prompt_name
    except ValueError:  # a line of a prompt file with a long name
        row["text"] = str(record["prompt"])
    return {
        "campaign": f"{str(record['campaign'])[: _LONGEST_NAME - len(_AGAIN)]}{_AGAIN}",
        # Under defaults, what the variant has no part for is left aside instead of refused.
        "defaults": _settings_of(record, workspace),
        **({"subjects": subjects} if subjects else {}),
        **({"prompts": prompts} if prompts else {}),
        "rows": [row],
    }


def rendered_seed(record: Record) -> int:
    """Return the seed that drew the clip's noise; records older than the gate name it `seed`."""
    return int(record["rendered_seed"] if record["gate_try"] else record["seed"])


def _settings_of(record: Record, workspace: Path) -> dict[str, Any]:
    files = json.loads(record["lora_files"])
    loras = zip(files, _loras(record), strict=False)
    return {
        **{
            name: record[name]
            for name in (
                *("variant", "size", "frames", "fps", "steps", "guidance_text"),
                *("guidance_identity", "scale_identity", "scale_reference", "negative_prompt"),
                *("precision", "numerics", "memory"),
            )
        },
        # A cache's record tells its method and threshold, too.
        "speed": str(record["speed"]).partition(":")[0],
        "loras": [
            {"weights": str(workspace / file), "scale": float(scale)} for file, (_, scale) in loras
        ],
        "safety": record["safety"],
        "label": record["label"],
        "video": {"codec": record["codec"], "crf": record["crf"]},
    }


def _loras(record: Record) -> list[tuple[str, str]]:
    """Return digest and scale of each LoRA."""
    pairs = [pair.partition("@") for pair in str(record["loras"]).split(",") if pair]
    return [(digest, scale) for digest, _, scale in pairs]


def _face(record: Record) -> dict[str, Any]:
    face = str(record["face"])
    if face == "only":
        return {}  # what a manifest means that says nothing
    index = face.partition(":")[2]
    return {"face": {"index": int(index)} if index else face}


def _consent(record: Record) -> dict[str, Any]:
    word = str(record["consent"])
    if word == SYNTHETIC and not record["consent_id"]:
        return {"synthetic": True}
    if _is_no_basis(word):
        return {}
    expires = record["consent_expires"]
    return {"consent": {"basis": word, **({"expires": expires} if expires else {})}}


def _is_no_basis(word: str) -> bool:
    warned = word.endswith("(warn)") and word.startswith(("none ", "expired "))
    return warned or word in {UNCHECKED, ""}


def _consent_warnings(record: Record) -> Iterator[Problem]:
    word = str(record["consent"])
    if record["subject_digest"] and _is_no_basis(word):
        text = (
            f"its record names no consent that held ('{word}'), so the manifest has none; write "
            "the one you hold"
        )
        yield Problem(f"subject '{record['subject']}'", text)


def _variant_faults(record: Record) -> Iterator[Problem]:
    if record["variant"] not in REGISTRY:
        text = f"this program has no such variant; use lynx_engine {record['engine_version']}"
        yield Problem(f"variant '{record['variant']}'", text)


def _photo_faults(record: Record, settings: Settings, key: bytes | None) -> Iterator[Problem]:
    if not record["subject_digest"]:
        return
    photos = [settings.workspace / photo for photo in json.loads(record["photos"])]
    subject = f"subject '{record['subject']}'"
    if not photos:
        text = (
            "its record names no photo: it was written before records did. Write a manifest with "
            "the photo by hand"
        )
        yield Problem(subject, text)
        return
    gone = [photo for photo in photos if not photo.is_file()]
    for photo in gone:
        yield Problem(str(photo), f"the photo of {subject} is gone; put it back")
    if gone:
        return
    if key is None:
        text = (
            "nobody can tell whether the photo is the one of the record: the workspace key "
            "(.lynx/workspace.key) is gone. Put it back"
        )
        yield Problem(subject, text)
        return
    digests = ",".join(digest_file(photo) for photo in photos)
    if keyed_digest(digests, key) != record["subject_digest"]:
        named = ", ".join(map(str, photos))
        one = "the photo" if len(photos) == 1 else "one of these photos"
        yield Problem(named, f"{one} is not the one of the record any more; put that one back")


def _lora_faults(record: Record, settings: Settings) -> Iterator[Problem]:
    files = [settings.workspace / file for file in json.loads(record["lora_files"])]
    loras = _loras(record)
    if len(files) != len(loras):
        text = (
            "its record names LoRAs by digest only: it was written before records named files. "
            "Write a manifest with the files by hand"
        )
        yield Problem("loras", text)
        return
    for file, (digest, _) in zip(files, loras, strict=True):
        if not file.is_file():
            yield Problem(str(file), "the LoRA is gone; put it back")
        elif digest_file(file) != digest:
            yield Problem(str(file), "the LoRA is not the one of the record any more; put it back")


def _version_warnings(record: Record) -> Iterator[Problem]:
    now = read_environment()
    changed = [
        f"{word} {record[name]} -> {getattr(now, name)}"
        for name, word in _VERSIONS.items()
        if record[name] != getattr(now, name)
    ]
    if changed:
        yield Problem("versions", f"{', '.join(changed)}: pixels may differ by rounding")


def _planned(values: Mapping[str, Any], settings: Settings) -> tuple[RenderJob, list[Problem]]:
    """Return the request that the manifest makes here, and what planning warns of.

    Raises:
        RefusedError: If planning refuses the row.
    """
    # A campaign that has no past: what was rendered under the manifest's own name is no matter.
    scratch = {**values, "campaign": f"again-{secrets.token_hex(8)}"}
    with tempfile.TemporaryDirectory(prefix="lynx-again-") as folder:
        path = Path(folder) / "again.yaml"
        path.write_text(as_yaml(scratch), encoding="utf-8")
        try:
            manifest = read_manifest(path)
            plan = plan_renders(manifest, gather_facts(manifest, settings))
        except RefusedError as error:
            # The file is gone when the letter is read, and its lines with it.
            raise RefusedError(_without_place(error, path)) from None
    (planned,) = plan.to_run
    return planned.job, list(plan.warnings)


def _without_place(error: ProblemsError, path: Path) -> Iterator[Problem]:
    for problem in error.problems:
        yield replace(problem, where="row") if str(path) in problem.where else problem


def _differences(record: Record, job: RenderJob, key: bytes | None) -> Iterator[tuple[str, str]]:
    """Yield each field in which the manifest's request differs from the recorded one, in words.

    The gate is left aside: the manifest has none, and the seed that was rendered.
    """
    now = job.request()
    before = {name: record[name] for name in REQUEST_FIELDS}
    now["subject_digest"] = keyed_digest(job.subject_digest, key) if key else ""
    before |= {"seed": rendered_seed(record), "gate": ""}
    for name in REQUEST_FIELDS:
        if before[name] != now[name]:
            yield name, describe_changes({name: before[name]}, {name: now[name]})[0]


def _changed(field: str, change: str) -> str:
    match field:
        case "face_detector":
            return f"{change}: the face may be cropped otherwise, and pixels differ"
        case "weights_fingerprint":
            return f"{change} since: with those that are here it would be another clip"
        case _:
            return f"{change} since: it would be another clip"
