"""Renders the tiny variant end to end, to see that this machine's whole path works and how fast."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lynx_engine.folders import ModelsPlace
from lynx_engine.identity.embed import SubjectFace
from lynx_engine.jobs import RenderJob
from lynx_engine.loading import load_engine
from lynx_engine.rendering import EnginePlace
from lynx_engine.variants import get_variant

_VARIANT = "tiny"


@dataclass(frozen=True, slots=True)
class Trial:
    """What rendering tiny took on the CPU.

    Attributes:
        load_s: Finding or making the weights and loading them.
        clip_s: Seconds of each clip, frames in memory, no file written.
    """

    load_s: float
    clip_s: tuple[float, ...]


def render_tiny(*, models_dir: ModelsPlace, cache_dir: Path, threads: int, clips: int) -> Trial:
    """Render `clips` clips of one made-up face with other seeds.

    Raises:
        RowError: As loading and rendering do.
    """
    started = time.perf_counter()
    place = EnginePlace("cpu", "float32", models_dir, cache_dir, threads)
    engine = load_engine(get_variant(_VARIANT), place).engine
    load_s = time.perf_counter() - started
    dice = np.random.default_rng(0)
    embedding = dice.standard_normal(512, dtype=np.float32)
    face = SubjectFace(
        landmarks=np.zeros((5, 2), np.float32),
        embedding=embedding / np.float32(np.linalg.norm(embedding)),
        reference_crop=dice.integers(0, 256, (256, 256, 3), dtype=np.uint8),
    )
    taken: list[float] = []
    for seed in range(clips):
        started = time.perf_counter()
        engine.render(_job(seed), face)
        taken.append(time.perf_counter() - started)
    return Trial(load_s, tuple(taken))


def _job(seed: int) -> RenderJob:
    d = get_variant(_VARIANT).defaults
    return RenderJob(
        campaign="bench",
        subject="nobody",
        prompt_name="bench",
        where="bench",
        photos=(),
        memory="auto",
        safety="on",
        consent="synthetic",
        subject_digest="0" * 64,
        face="only",
        face_detector="",
        prompt="A person walks through a park.",
        negative_prompt=d.negative_prompt,
        variant=_VARIANT,
        weights_fingerprint=get_variant(_VARIANT).recipe,
        seed=seed,
        frames=d.frames,
        fps=d.fps,
        size=d.size,
        steps=d.steps,
        guidance_text=d.guidance_text,
        guidance_identity=d.guidance_identity,
        scale_identity=d.scale_identity,
        scale_reference=d.scale_reference,
        precision=d.precision,
        numerics="normal",
        speed="exact",
        loras=(),
        label="none",
        codec="h264",
        crf=18,
    )
