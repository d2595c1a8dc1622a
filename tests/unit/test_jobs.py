"""A job's id is its content: whatever can change a pixel, and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_engine.digest import digest_mapping
from lynx_engine.jobs import REQUEST_FIELDS, JobPattern, Lora, RenderJob
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


_GOLDEN = {
    "plain": "8243b34882927ffe0c23653eed5abd9920c47fbf6aab56929dd9080b265bd180",
    "gated": "ff532a8842430e48bb40928757899754f7359dc125e109ea6dfe916e261ac6d0",
}


def test_id_of_a_request_is_what_it_always_was() -> None:
    assert make_job().job_id == _GOLDEN["plain"]
    gated = make_job(gate="0.5, 1 seed, best; by r", prompt='é "quoted"\n\ud800', seed=2**63 - 1)
    assert gated.job_id == _GOLDEN["gated"]


@given(
    prompt=st.text(),
    negative=st.text(),
    seed=st.integers(0, 2**63 - 1),
    guidance=st.floats(0, 100),
    gate=st.sampled_from(["", "0.5, 1 seed, best; by r"]),
)
def test_pattern_makes_the_job_and_the_id_that_the_whole_request_gives(
    prompt: str, negative: str, seed: int, guidance: float, gate: str
) -> None:
    first = make_job(negative_prompt=negative, guidance_text=guidance, gate=gate)
    row: dict[str, Any] = {"where": "t.csv:9", "prompt_name": "p", "prompt": prompt, "seed": seed}
    made = JobPattern(first).job(**row)
    assert made == replace(first, **row)
    request = made.request()
    if not gate:
        del request["gate"]
    assert made.job_id == digest_mapping(request)
