"""Jobs and results to test with; every value may be replaced."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lynx_engine.jobs import PlannedJob, Reason, RenderJob, RenderPlan
from lynx_engine.provenance.record import make_record
from lynx_engine.provenance.schema import ProvenanceRecord
from lynx_engine.results import ClipFacts, Conditions, Rendered, WorkerFacts
from lynx_engine.shapes import FrameSize

_JOB = RenderJob(
    campaign="trial",
    subject="none",
    prompt_name="beach",
    where="trial.yaml:3",
    photos=(),
    memory="auto",
    safety="on",
    consent="",
    subject_digest="",
    face="only",
    face_detector="test detector",
    prompt="A walk on the beach.",
    negative_prompt="",
    variant="tiny",
    weights_fingerprint="tiny-1",
    seed=1,
    frames=9,
    fps=8,
    size=FrameSize(64, 64),
    steps=4,
    guidance_text=5.0,
    guidance_identity=2.0,
    scale_identity=1.0,
    scale_reference=1.0,
    precision="float32",
    numerics="normal",
    speed="exact",
    loras=(),
    label="none",
    codec="h264",
    crf=18,
)


def make_job(**changes: Any) -> RenderJob:
    return replace(_JOB, **changes)


def make_sleeper_job(prompt: str, **changes: Any) -> RenderJob:
    """Return a job of the null renderer; `lynx_engine/sleeper.py` knows the prompt's words."""
    plain = {"variant": "sleeper", "frames": 5, "size": FrameSize(32, 32), "prompt": prompt}
    return make_job(**{**plain, **changes})


def planned(job: RenderJob, *, attempt: int = 1) -> PlannedJob:
    return PlannedJob(job, Reason.NEW, "new", attempt)


def plan_of(*jobs: RenderJob) -> RenderPlan:
    return RenderPlan("trial", tuple(planned(job) for job in jobs), done=(), held=())


def rendered(job: RenderJob) -> Rendered:
    facts = ClipFacts(
        bytes=1000, digest="c" * 64, frames_digest="f" * 64, frames=9, fps=8.0, size=job.size
    )
    worker = WorkerFacts(
        device="cpu",
        device_name="test",
        conditions=Conditions(attention_backend="native"),
        stages_s={"load": 0.5, "denoise": 1.5},
        threads=1,
        peak_memory_bytes=10,
        weights={"base": "w" * 64},
    )
    return Rendered(job.clip_name, facts, worker)


def record_of(job: RenderJob, *, day: int = 1, **changes: Any) -> ProvenanceRecord:
    moment = datetime(2026, 11, day, 12, 0, 0, 250_000, tzinfo=UTC)
    record = make_record(
        planned(job),
        rendered(job),
        run_id="r1",
        started_at=moment,
        finished_at=moment,
        key=b"k" * 32,
    )
    return replace(record, **changes)


def astronaut() -> Path:
    return Path(__file__).parents[2] / "manifests" / "subjects" / "astronaut.png"
