"""Says in words what a record holds: the lists of a clip's drawer, and what to do after a failure.

Values in, texts out, units included; an empty text is not shown. What tells of a photo beyond its
consent (its digest, even keyed) is no part of it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from lynx_engine.errors import ErrorCode
from lynx_engine.gate import likeness_in_words, score_of
from lynx_engine.history import QUARANTINED, RETRYABLE
from lynx_engine.jobs import Status
from lynx_engine.report.report_data import Record, Row
from lynx_engine.words import duration_in_words

Say = Callable[[Record], str]

_SHORT_ID = 12

ADVICE: Mapping[str, str] = {
    ErrorCode.IMAGE: "Replace the subject's photo, then render again.",
    ErrorCode.FACE: "Choose a photo with one clear face, or say which with `face:`.",
    ErrorCode.WEIGHTS: "`lynx-engine models verify` names the file; `models pull` fetches it.",
    ErrorCode.LORA: "Put the LoRA file back, or name another one in the manifest.",
    ErrorCode.ENCODER: "Look at ffmpeg's own words in the row, then retry.",
    ErrorCode.BAD_CLIP: "Retry; if it comes back, the device or its driver is suspect.",
    ErrorCode.BAD_FRAMES: "Retry; if it comes back, try another seed or a higher precision.",
    ErrorCode.IO: "Check the disk or the network share, then retry.",
    ErrorCode.OUT_OF_MEMORY: "Retry with `--lowvram`, or ask for fewer frames or a smaller size.",
    ErrorCode.WORKER_DIED: "Retry; a row that ended its process twice waits for you.",
    ErrorCode.DISK: "Make room on the disk, then run the same command again.",
    ErrorCode.SAFETY: "Withheld clips are not kept; change the prompt or the seed.",
    ErrorCode.SCORE: "Check the recogniser with `lynx-engine doctor`, then retry.",
    ErrorCode.CONSENT: "Renew the consent in the manifest, or take the subject out.",
    ErrorCode.INTERNAL: "Our fault: send us the traceback beside the log. Retrying is safe.",
}
"""What a person can do, by error code."""

LOW_IDENTITY_ADVICE = "Retry takes further seeds; or lower the gate, or take a better photo."
"""What a person can do about a clip under its gate."""

MEANING: Mapping[str, str] = {
    Status.RENDERED.value: "rendered",
    Status.LOW_IDENTITY.value: "low identity",
    Status.WITHHELD.value: "withheld",
    Status.FAILED.value: "failed",
    QUARANTINED: "quarantined",
    Status.INTERRUPTED.value: "interrupted",
}
"""Status -> the word people read."""


def commands_of(row: Row) -> tuple[tuple[str, str], ...]:
    """Return what can be done with a row: a word, and the command to copy."""
    where, short = manifest_of(row), row.job_id[:_SHORT_ID]
    found: list[tuple[str, str]] = []
    if row.status in RETRYABLE:
        found.append(("Render it again", f"lynx-engine retry {where} --row {short}"))
    elif row.status == Status.INTERRUPTED or (row.status == Status.RENDERED and not row.is_there):
        found.append(("Render what is missing", f"lynx-engine render {where}"))
    found.append(("Show its record", f"lynx-engine show {short}"))
    if row.clip:
        found.append(("Write its manifest", f"lynx-engine show {short} --manifest"))
    return tuple(found)


def manifest_of(row: Row) -> str:
    """Return the manifest that last asked for a row, quoted for a shell."""
    return shlex.quote(str(row.record["where"]).rpartition(":")[0] or "MANIFEST")


def what_to_do(row: Row) -> str:
    """Return what a person can do about a row, "" about one that is well."""
    match row.status:
        case Status.RENDERED | Status.LOW_IDENTITY if row.clip and not row.is_there:
            return "Its clip is gone; `render` makes it again."
        case Status.RENDERED:
            return ""
        case Status.LOW_IDENTITY:
            return LOW_IDENTITY_ADVICE
        case Status.INTERRUPTED:
            return "The run was stopped; the same command goes on with it."
        case _:
            return ADVICE.get(row.record["code"], "Retry runs it again.")


def under_gate(row: Row) -> str:
    """Return how far a row under its gate came, as `0.41 of 0.55 after 3 seeds`; else ""."""
    if row.status != Status.LOW_IDENTITY or not row.record["gate"]:
        return ""
    best = score_of(row.made["identity_mean"])
    return likeness_in_words(row.record["gate"], best, row.record["gate_try"])


def sections() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the drawer's lists: title and labels, in order."""
    return tuple((title, tuple(label for label, _ in lines)) for title, lines in _SECTIONS)


def details_of(row: Row) -> tuple[tuple[str, ...], ...]:
    """Return the texts of a row, in the order of `sections`; "" where nothing is known."""
    return tuple(tuple(say(row.made) for _, say in lines) for _, lines in _SECTIONS)


def _text(column: str) -> Say:
    return lambda record: str(record[column])


def _plain(column: str, unit: str = "") -> Say:
    """Say a number that every record has."""
    return lambda record: f"{record[column]:g}{unit}"


def _number(column: str, digits: int, unit: str = "") -> Say:
    """Say a measured number; null is not told."""
    return lambda record: "" if record[column] is None else f"{record[column]:.{digits}f}{unit}"


def _whole(column: str, unit: str = "") -> Say:
    """Say a count that is 0 where there was nothing to count."""
    return lambda record: f"{record[column]:,}{unit}" if record[column] else ""


def _yes(column: str) -> Say:
    return lambda record: "yes" if record[column] else ""


def _share(column: str) -> Say:
    return lambda record: "" if record[column] is None else f"{record[column]:.0%}"


def _size(column: str) -> Say:
    return lambda record: size_in_words(record[column]) if record[column] else ""


def _moment(column: str) -> Say:
    return lambda record: f"{record[column]:%Y-%m-%d %H:%M:%S} UTC"


def _by_file(column: str) -> Say:
    """Say a JSON object line by line."""

    def say(record: Record) -> str:
        found: dict[str, Any] = json.loads(record[column])
        return "\n".join(f"{name}: {value}" for name, value in found.items())

    return say


def _listed(column: str) -> Say:
    return lambda record: "\n".join(map(str, json.loads(record[column])))


def _looked(word: Callable[[Record], str]) -> Say:
    """Say something of the picture, where somebody looked at it."""
    return lambda record: "" if record["motion"] is None else word(record)


def _rendered_seed(record: Record) -> str:
    number = record["gate_try"]
    seed = str(record["rendered_seed"])
    return f"{seed} (seed {number} of the gate)" if number > 1 else seed


def _safety(record: Record) -> str:
    score = record["safety_score"]
    if score is None:
        return ""
    return f"{score:.2f} of the threshold, in frame {record['safety_frame']}"


def size_in_words(count: int) -> str:
    """Return bytes as people say them: `812 B`, `4.1 kB`, `13.9 GB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


_SECTIONS: tuple[tuple[str, tuple[tuple[str, Say], ...]], ...] = (
    (
        "Likeness, look and safety",
        (
            ("likeness, mean", _number("identity_mean", 3)),
            ("likeness, least", _number("identity_min", 3)),
            ("change a second", _number("identity_slope", 3)),
            ("frames with a face", _share("face_share")),
            ("frames scored", _whole("score_frames")),
            ("recogniser", _text("evaluator")),
            ("one person from", _text("evaluator_calibration")),
            ("gate", _text("gate")),
            ("motion", _number("motion", 3, " short sides a second")),
            ("sharpness", _number("sharpness", 1)),
            ("stands still", _looked(lambda record: "yes" if record["frozen"] else "no")),
            ("flickers", _looked(lambda record: "yes" if record["flicker"] else "no")),
            ("safety check", _text("safety")),
            ("safety score", _safety),
            ("classifiers", _text("safety_classifiers")),
        ),
    ),
    (
        "Request",
        (
            ("negative prompt", _text("negative_prompt")),
            ("subject", _text("subject")),
            ("prompt name", _text("prompt_name")),
            ("variant", _text("variant")),
            ("seed", _text("seed")),
            ("rendered seed", _rendered_seed),
            ("frames", _text("frames")),
            ("frames a second", _text("fps")),
            ("size", _text("size")),
            ("steps", _text("steps")),
            ("text guidance", _plain("guidance_text")),
            ("identity guidance", _plain("guidance_identity")),
            ("identity scale", _plain("scale_identity")),
            ("reference scale", _plain("scale_reference")),
            ("precision", _text("precision")),
            ("numerics", _text("numerics")),
            ("speed", _text("speed")),
            ("LoRAs", _text("loras")),
            ("LoRA files", _listed("lora_files")),
            ("label", _text("label")),
            ("codec", lambda record: f"{record['codec']}, crf {record['crf']}"),
            ("face", _text("face")),
            ("face detector", _text("face_detector")),
            ("manifest", _text("where")),
        ),
    ),
    (
        "Clip, labels and consent",
        (
            ("file", _text("clip")),
            ("file size", _size("clip_bytes")),
            (
                "decoded",
                lambda r: f"{r['clip_frames']} frames of {r['clip_size']}" * bool(r["clip_frames"]),
            ),
            (
                "bitrate",
                lambda r: f"{r['clip_bitrate'] / 1000:.0f} kbit/s" * bool(r["clip_bitrate"]),
            ),
            ("sha256", _text("clip_digest")),
            ("sha256 of frames", _text("frames_digest")),
            ("marked as made by a machine", _text("labels_applied")),
            ("credential", _text("credential")),
            ("signer", _text("signer")),
            ("consent", _text("consent")),
            ("consent id", _text("consent_id")),
            ("consent ends", _text("consent_expires")),
        ),
    ),
    (
        "Machine",
        (
            ("device", _text("device")),
            ("device name", _text("device_name")),
            ("driver", _text("driver")),
            ("peak memory", _size("peak_memory_bytes")),
            ("memory asked for", _text("memory")),
            ("memory tier", _text("memory_tier")),
            ("memory rungs", _text("memory_rungs")),
            ("streamed blocks", _whole("streamed_blocks")),
            ("attention", _text("attention_backend")),
            ("why that one", _text("attention_reason")),
            ("compiled", _yes("compiled")),
            (
                "VAE",
                lambda r: (
                    f"{r['vae_precision']}{', tiled' * r['vae_tiled']}" * bool(r["vae_precision"])
                ),
            ),
            ("cached passes", _whole("cached_passes")),
            ("CPU threads", _whole("threads")),
        ),
    ),
    (
        "Versions",
        (
            ("lynx_engine", _text("engine_version")),
            ("commit", _text("commit")),
            ("Python", _text("python_version")),
            ("torch", _text("torch_version")),
            ("diffusers", _text("diffusers_version")),
            ("ffmpeg", _text("ffmpeg_version")),
            ("platform", _text("platform")),
            ("weights stand for", _text("weights_fingerprint")),
            ("weights", _by_file("weights")),
            ("licences", _by_file("licences")),
        ),
    ),
    (
        "Log",
        (
            ("job id", _text("job_id")),
            ("run", _text("run_id")),
            ("attempt", _text("attempt")),
            ("started", _moment("started_at")),
            ("finished", _moment("finished_at")),
            ("time", lambda record: duration_in_words(record["total_s"])),
            ("schema version", _text("schema_version")),
        ),
    ),
)
