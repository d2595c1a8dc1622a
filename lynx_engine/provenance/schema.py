"""One flat record for every attempt: what was asked, what happened, what came out, on what.

The stored record and the in-memory result are two types: `RenderResult` may change with the code,
a `ProvenanceRecord` only with `SCHEMA_VERSION`. It never holds an embedding, image bytes, the
environment or a raw digest of a photo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, get_type_hints

if TYPE_CHECKING:
    import polars as pl

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenanceRecord:
    """One attempt at one row.

    Attributes:
        schema_version: Version of this list of columns.
        run_id: One id for each run of the command.
        campaign: Campaign name.
        job_id: sha256 of the request; the same on every machine.
        attempt: 1 for the first attempt at this request.
        status: rendered, low_identity, withheld, failed or interrupted.
        code: Error code of a failed attempt, else "".
        message: The failure in words, else "".
        stderr: The last lines (20, 2,000 characters at most, without secrets) that the failing
            program or process wrote, of a bug the end of its traceback; else "".
        started_at: UTC, when a device took the row.
        finished_at: UTC, when the attempt ended.
        where: Manifest file and line.
        subject: Subject name, "none" without identity.
        prompt_name: The author's name for the prompt.
        consent: Recorded right to the face: its basis, "synthetic", "" without a subject; what was
            wanting and let pass, as "none (warn)" or "expired 2026-01-01 (warn)"; or "unchecked".
        consent_id: Mark of the consent as the manifest wrote it (HMAC-SHA256, workspace key, 16 hex
            digits), for finding it among papers; "" without one.
        consent_expires: The last day on which it holds, ISO 8601; "" if it has no end, or nobody
            asks.
        safety: `on` or `acknowledged-off`.
        subject_digest: Keyed digest (HMAC-SHA256, workspace key) of the photo; "" without one.
        photos: JSON list, the subject's photo files; relative to the workspace if they lie in it.
        face: Which face of the photo.
        face_detector: Library, version, networks and licence of what found its landmarks.
        prompt: The text, exactly.
        negative_prompt: The text guidance steers away from, exactly.
        variant: Registry name.
        weights_fingerprint: Digest that stands for all weight files.
        seed: Seed of the noise.
        frames: Frames asked for.
        fps: Frames a second asked for.
        size: Width x height asked for, in pixels.
        steps: Sampling steps.
        guidance_text: Text guidance.
        guidance_identity: Identity guidance.
        scale_identity: Identity adapter scale.
        scale_reference: Reference adapter scale.
        precision: Floating-point type of the large models.
        numerics: normal or strict.
        speed: exact, or the lossy shortcut with its constants.
        loras: `sha256@scale`, comma-separated, in order.
        lora_files: JSON list, the files of those LoRAs in the same order, relative likewise.
        label: Burnt-in label profile.
        codec: Video codec.
        crf: Constant rate factor.
        gate: The identity gate and its recogniser; "" without one.
        rendered_seed: The seed of this attempt: `seed`, or the next of the gate's sequence.
        gate_try: Which seed of that sequence it is, from 1; 0 in records older than the gate.
        clip: File name of the published clip, else "".
        clip_bytes: Its size in bytes.
        clip_digest: sha256 of the file.
        frames_digest: sha256 of its decoded planes, equal after a remux.
        clip_frames: Frames counted by decoding.
        clip_fps: Frames a second the file declares.
        clip_size: Width x height decoded, in pixels.
        clip_bitrate: Bits a second of the whole file.
        labels_applied: What tells that the clip is made by a machine, comma-separated: `tags` (mp4
            metadata), the burnt-in profile `eu` or `cn`, `c2pa` (signed credentials).
        credential: Identifier of its C2PA manifest; "" without signed credentials.
        signer: Who signed it: the certificate's subject, sha256 and last day; "" likewise.
        device: cpu, cuda:0, ...
        device_name: The device's own name.
        driver: Version of the device's driver; "" for a CPU.
        attention_backend: Kernel family that computed attention.
        attention_reason: Why that one.
        compiled: Whether the transformer's blocks were compiled.
        memory: Memory tier asked for.
        memory_tier: Memory tier in force.
        memory_rungs: Rungs of the memory ladder in force, comma-separated, in the order taken:
            free_caches, others_wait, stream_quarter, stream_half, stream_all, reproject,
            blocks_leave, vae_tiling; "" when none was needed. Older records call others_wait
            offload.
        streamed_blocks: Transformer blocks that waited in host memory and visited the device.
        vae_precision: Floating-point type the clip was decoded in.
        vae_tiled: Whether it was decoded in overlapping tiles.
        cached_passes: Predictions that a step cache answered with one block.
        evaluator: The recogniser that scored the clip, with version and licence; "" if none did.
        evaluator_calibration: The score from which on two faces count as one person, and its
            source; or "uncalibrated".
        score_frames: Frames scored.
        face_share: Part of them that show a face.
        identity_mean: Mean likeness over those; null if no face was seen, or nobody looked.
        identity_min: The least likeness.
        identity_slope: Change of likeness a second.
        identity_scores: JSON list of [seconds, score]: likeness over time; score null without a
            face.
        motion: Mean optical flow, in short sides of the picture a second.
        frozen: Whether the picture stands still for half a second.
        flicker: Whether its brightness jumps from frame to frame.
        sharpness: Variance of the Laplacian of luma.
        safety_classifiers: Who checked the frames, with versions and thresholds; "" if nobody did.
        safety_score: The highest score, as a part of its threshold: 1 and more is withheld.
        safety_frame: The frame it belongs to; null if nobody looked.
        load_s: Seconds loading the model, 0 when warm; before `started_at`, where a face was
            embedded first.
        text_s: Seconds encoding text, 0 when cached.
        subject_s: Seconds for identity tokens, reference features, and their keys and values.
        denoise_s: Seconds sampling.
        decode_s: Seconds decoding latents.
        encode_s: Seconds encoding the clip.
        check_s: Seconds decoding and checking the clip.
        safety_s: Seconds classifying frames.
        score_s: Seconds scoring likeness, motion and sharpness.
        total_s: Seconds from start to finish, waiting included.
        threads: CPU threads of torch.
        peak_memory_bytes: Largest device memory (on CPU: process memory) during the attempt.
        engine_version: Version of lynx_engine.
        commit: Commit of the code, "" when not in a checkout.
        python_version: Python.
        torch_version: torch.
        diffusers_version: diffusers.
        ffmpeg_version: The program that encoded and decoded the clip.
        platform: Operating system and processor family.
        weights: JSON object, weight file -> sha256, for files whose digest is known.
        licences: JSON object, weight file or folder, or LoRA file (named as in lora_files) ->
            licence or terms; "unknown" for a LoRA that does not say.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    campaign: str
    job_id: str
    attempt: int
    status: str
    code: str = ""
    message: str = ""
    stderr: str = ""
    started_at: datetime
    finished_at: datetime
    where: str
    subject: str
    prompt_name: str
    consent: str
    consent_id: str = ""
    consent_expires: str = ""
    safety: str
    subject_digest: str
    photos: str = "[]"
    face: str
    face_detector: str
    prompt: str
    negative_prompt: str
    variant: str
    weights_fingerprint: str
    seed: int
    frames: int
    fps: int
    size: str
    steps: int
    guidance_text: float
    guidance_identity: float
    scale_identity: float
    scale_reference: float
    precision: str
    numerics: str
    speed: str
    loras: str
    lora_files: str = "[]"
    label: str
    codec: str
    crf: int
    gate: str = ""
    rendered_seed: int = 0
    gate_try: int = 0
    clip: str = ""
    clip_bytes: int = 0
    clip_digest: str = ""
    frames_digest: str = ""
    clip_frames: int = 0
    clip_fps: float = 0.0
    clip_size: str = ""
    clip_bitrate: float = 0.0
    labels_applied: str = ""
    credential: str = ""
    signer: str = ""
    device: str = ""
    device_name: str = ""
    driver: str = ""
    attention_backend: str = ""
    attention_reason: str = ""
    compiled: bool = False
    memory: str
    memory_tier: str = ""
    memory_rungs: str = ""
    streamed_blocks: int = 0
    vae_precision: str = ""
    vae_tiled: bool = False
    cached_passes: int = 0
    evaluator: str = ""
    evaluator_calibration: str = ""
    score_frames: int = 0
    face_share: float | None = None
    identity_mean: float | None = None
    identity_min: float | None = None
    identity_slope: float | None = None
    identity_scores: str = "[]"
    motion: float | None = None
    frozen: bool = False
    flicker: bool = False
    sharpness: float | None = None
    safety_classifiers: str = ""
    safety_score: float | None = None
    safety_frame: int | None = None
    load_s: float = 0.0
    text_s: float = 0.0
    subject_s: float = 0.0
    denoise_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    check_s: float = 0.0
    safety_s: float = 0.0
    score_s: float = 0.0
    total_s: float = 0.0
    threads: int = 0
    peak_memory_bytes: int = 0
    engine_version: str
    commit: str
    python_version: str
    torch_version: str
    diffusers_version: str
    ffmpeg_version: str = ""
    platform: str
    weights: str = "{}"
    licences: str = "{}"


def column_defaults() -> Mapping[str, str | int | float | None]:
    """Return the value of each column that a record may lack: it came after the first version.

    Columns are only ever added, with such a default; then `SCHEMA_VERSION` stays. What else may
    change, and how, says `upgrade.py`.
    """
    given = {f.name: f.default for f in fields(ProvenanceRecord) if f.default is not MISSING}
    return {
        name: value
        for name, value in given.items()
        if value is None or isinstance(value, str | int | float)
    }


@cache
def record_columns() -> Mapping[str, pl.DataType]:
    """Return column name -> polars type, in order. Times are UTC to the microsecond."""
    import polars as pl

    kinds: dict[object, pl.DataType] = {
        int: pl.Int64(),
        int | None: pl.Int64(),
        float: pl.Float64(),
        float | None: pl.Float64(),
        str: pl.String(),
        bool: pl.Boolean(),
        datetime: pl.Datetime("us", "UTC"),
    }
    hints = get_type_hints(ProvenanceRecord)
    return {f.name: kinds[hints[f.name]] for f in fields(ProvenanceRecord)}
