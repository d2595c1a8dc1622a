"""A job's id is its content: whatever can change a pixel, and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from lynx_engine.jobs import REQUEST_FIELDS, Lora, RenderJob
from lynx_engine.shapes import FrameSize
from tests.support.jobs import make_job

PLACES = {"campaign", "subject", "prompt_name", "where", "photos", "memory", "safety", "consent",
          "consent_expires", "consent_written"}  # fmt: skip
OTHER: dict[str, Any] = {
    "size": FrameSize(64, 80),
    "loras": (Lora("ab", 0.5, Path("a.safetensors")),),
    "photos": (Path("other.png"),),
    "consent_expires": date(2026, 1, 1),
}


def changed(job: RenderJob, name: str) -> RenderJob:
    value = getattr(job, name)
    other = OTHER.get(name, value + 1 if isinstance(value, int | float) else f"{value}x")
    return replace(job, **{name: other})


@pytest.mark.parametrize("name", sorted(REQUEST_FIELDS))
def test_every_field_of_the_request_changes_the_id(name: str) -> None:
    assert changed(make_job(), name).job_id != make_job().job_id


@pytest.mark.parametrize("name", sorted(PLACES))
def test_names_and_places_do_not_change_the_id(name: str) -> None:
    assert changed(make_job(), name).job_id == make_job().job_id


def test_each_field_is_either_request_or_place() -> None:
    assert {f.name for f in fields(RenderJob)} == {*REQUEST_FIELDS, *PLACES, "job_id"}


def test_id_is_the_sha256_of_the_request_as_canonical_json() -> None:
    job = make_job(prompt="Ein Käfer 🐞", gate="0.5, 3 seeds, best; by a test")
    text = json.dumps(job.request(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert job.job_id == hashlib.sha256(text.encode()).hexdigest()


def test_a_request_without_a_gate_has_the_id_it_had_before_there_were_gates() -> None:
    request = make_job().request()
    assert request.pop("gate") == ""
    text = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert make_job().job_id == hashlib.sha256(text.encode()).hexdigest()


def test_order_of_loras_is_part_of_the_request() -> None:
    first, second = Lora("aa", 1.0, Path("a")), Lora("bb", 1.0, Path("b"))
    assert make_job(loras=(first, second)).job_id != make_job(loras=(second, first)).job_id


def test_a_lora_is_known_by_its_content_wherever_it_lies() -> None:
    here, there = (Lora("aa", 1.0, Path(name)) for name in ("a.safetensors", "b/a.safetensors"))
    assert make_job(loras=(here,)).job_id == make_job(loras=(there,)).job_id


def test_clip_is_named_by_the_row_and_the_beginning_of_its_id() -> None:
    job = make_job(subject="host", prompt_name="beach", seed=7, variant="tiny")
    assert job.clip_name == f"host-beach-s7-tiny-{job.job_id[:12]}.mp4"


def test_longer_larger_and_finer_clips_cost_more() -> None:
    job = make_job()
    larger = FrameSize(128, 64)
    for other in (replace(job, frames=13), replace(job, size=larger), replace(job, steps=8)):
        assert other.cost > job.cost
