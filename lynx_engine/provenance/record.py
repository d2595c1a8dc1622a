"""Turns one attempt, in the types of the running program, into the flat record that is kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from math import isfinite
from pathlib import Path

from lynx_engine.errors import ErrorCode
from lynx_engine.gate import reseed
from lynx_engine.jobs import PlannedJob, Status
from lynx_engine.provenance.environment import keyed_digest, read_environment
from lynx_engine.provenance.schema import ProvenanceRecord
from lynx_engine.results import (
    Failed,
    Findings,
    Interrupted,
    Rendered,
    RenderResult,
    Withheld,
    WorkerFacts,
)

_CONSENT_ID_CHARACTERS = 16


def make_record(
    planned: PlannedJob,
    result: RenderResult,
    *,
    run_id: str,
    started_at: datetime,
    finished_at: datetime,
    key: bytes,
    workspace: Path | None = None,
) -> ProvenanceRecord:
    """Describe one attempt.

    Args:
        planned: What was to run.
        result: How it ended.
        run_id: The run it belongs to.
        started_at: UTC, when a device took the row.
        finished_at: UTC, when the attempt ended.
        key: Workspace key, for the keyed marks of photo and consent.
        workspace: Files in it are named relative to it; without one, every path is absolute.
    """
    job = planned.job
    request = job.request()
    request["subject_digest"] = keyed_digest(job.subject_digest, key)
    columns: dict[str, object] = {
        **request,
        **asdict(read_environment()),
        **_outcome(result, workspace),
        "run_id": run_id,
        "campaign": job.campaign,
        "job_id": job.job_id,
        "attempt": planned.attempt,
        "started_at": started_at,
        "finished_at": finished_at,
        "where": job.where,
        "subject": job.subject,
        "prompt_name": job.prompt_name,
        "consent": job.consent,
        "consent_id": consent_id(job.consent_written, key),
        "consent_expires": job.consent_expires.isoformat() if job.consent_expires else "",
        "photos": _files(job.photos, workspace),
        "lora_files": _files((lora.path for lora in job.loras), workspace),
        "safety": job.safety,
        "memory": job.memory,
        "rendered_seed": reseed(job.seed, planned.first_try),
        "gate_try": planned.first_try,
        "total_s": (finished_at - started_at).total_seconds(),
    }
    return ProvenanceRecord(**columns)  # pyright: ignore[reportArgumentType]  # checked by the parquet schema


def consent_id(written: str, key: bytes) -> str:
    """Return the mark by which records name a consent; "" for none.

    Args:
        written: `consent.consent_text` of it.
        key: Workspace key: without it, a mark cannot be matched with anybody's papers.
    """
    return keyed_digest(written, key)[:_CONSENT_ID_CHARACTERS]


def _files(paths: Iterable[Path], workspace: Path | None) -> str:
    return _json([_name_of(path, workspace) for path in paths])


def _name_of(path: Path, workspace: Path | None) -> str:
    """Return a file's path as records tell it; a link at its end keeps its own name."""
    whole = path.parent.resolve() / path.name
    root = workspace.resolve() if workspace else None
    return str(whole.relative_to(root) if root and whole.is_relative_to(root) else whole)


def _json(value: object) -> str:
    """Return JSON that a person can read, and that is UTF-8 also for names which are not."""
    # Of a lone surrogate, backslashreplace makes the very escape by which JSON tells it.
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def _outcome(result: RenderResult, workspace: Path | None) -> dict[str, object]:
    match result:
        case Rendered(clip, facts, worker, findings, low_identity, marks):
            status = Status.LOW_IDENTITY if low_identity else Status.RENDERED
            return {
                "status": status.value,
                "clip": clip,
                "clip_bytes": facts.bytes,
                "clip_digest": facts.digest,
                "frames_digest": facts.frames_digest,
                "clip_frames": facts.frames,
                "clip_fps": facts.fps,
                "clip_size": str(facts.size),
                "clip_bitrate": 8 * facts.bytes * facts.fps / facts.frames,
                "labels_applied": ",".join(marks.labels),
                "credential": marks.credential,
                "signer": marks.signer,
                **_work(worker, workspace),
                **_found(findings),
            }
        case Withheld(message, verdict):
            return {
                "status": Status.WITHHELD.value,
                "code": ErrorCode.SAFETY.value,
                "message": message,
                **_found(Findings(safety=verdict)),
            }
        case Failed(code, message, stderr):
            return {
                "status": Status.FAILED.value,
                "code": code.value,
                "message": message,
                "stderr": stderr,
            }
        case Interrupted():
            return {"status": Status.INTERRUPTED.value}


def _found(findings: Findings) -> dict[str, object]:
    columns: dict[str, object] = {}
    if (likeness := findings.likeness) is not None:
        columns |= {
            "evaluator": likeness.evaluator,
            "evaluator_calibration": likeness.calibration,
            "score_frames": likeness.frames,
            "face_share": likeness.face_share,
            "identity_mean": likeness.mean,
            "identity_min": likeness.least,
            "identity_slope": likeness.slope_per_s,
            "identity_scores": json.dumps(likeness.scores),
        }
    if findings.look is not None:
        columns |= asdict(findings.look)
    if (verdict := findings.safety) is not None:
        columns |= {
            "safety_classifiers": verdict.classifiers,
            # A score that is no number is told in words; JSON knows no NaN.
            "safety_score": verdict.score if isfinite(verdict.score) else None,
            "safety_frame": verdict.frame,
        }
    return columns


def _work(worker: WorkerFacts, workspace: Path | None = None) -> dict[str, object]:
    licences = {
        _name_of(Path(file), workspace) if Path(file).is_absolute() else file: licence
        for file, licence in worker.licences.items()
    }
    return {
        "device": worker.device,
        "device_name": worker.device_name,
        **asdict(worker.conditions),
        "memory_rungs": ",".join(worker.conditions.memory_rungs),
        "threads": worker.threads,
        "peak_memory_bytes": worker.peak_memory_bytes,
        "driver": worker.driver,
        "ffmpeg_version": worker.ffmpeg_version,
        "weights": json.dumps(dict(worker.weights), sort_keys=True),
        "licences": _json(licences),
        **{f"{stage}_s": seconds for stage, seconds in worker.stages_s.items()},
    }
