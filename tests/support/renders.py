"""Jobs and photos for tests that render."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lynx_engine.jobs import RenderJob
from lynx_engine.shapes import FrameSize
from lynx_engine.variants import get_variant

REPOSITORY = Path(__file__).resolve().parents[2]
ASTRONAUT = REPOSITORY / "manifests" / "subjects" / "astronaut.png"


def make_job(variant: str) -> RenderJob:
    """Return a job with the variant's defaults; use `dataclasses.replace` to change it."""
    spec = get_variant(variant)
    defaults = spec.defaults
    return RenderJob(
        campaign="test",
        subject="astronaut" if spec.uses_subject else "none",
        prompt_name="pumpkin",
        where="test.yaml:1",
        photos=(ASTRONAUT,) if spec.uses_subject else (),
        memory="auto",
        safety="on",
        consent="public-domain" if spec.uses_subject else "",
        subject_digest="0" * 64 if spec.uses_subject else "",
        face="only",
        face_detector="marked by hand",
        prompt="A person carves a pumpkin on a porch in the evening.",
        negative_prompt="blurred, low quality",
        variant=variant,
        weights_fingerprint=spec.recipe or "0" * 64,
        seed=42,
        frames=defaults.frames,
        fps=defaults.fps,
        size=defaults.size,
        steps=defaults.steps,
        guidance_text=defaults.guidance_text,
        guidance_identity=defaults.guidance_identity,
        scale_identity=defaults.scale_identity,
        scale_reference=defaults.scale_reference,
        precision=defaults.precision,
        numerics="normal",
        speed="exact",
        loras=(),
        label="none",
        codec="h264",
        crf=18,
    )


def make_small_job(variant: str) -> RenderJob:
    """Return a job small enough for a scaled-down big variant on a CPU."""
    return replace(make_job(variant), size=FrameSize(64, 48), frames=5, steps=2)


@cache
def astronaut() -> npt.NDArray[np.uint8]:
    """Return the photo, RGB uint8 [512, 512, 3], with one face."""
    photo = cv2.imread(str(ASTRONAUT))
    assert photo is not None
    return np.ascontiguousarray(photo[..., ::-1]).astype(np.uint8, copy=False)


ASTRONAUT_LANDMARKS = np.array(
    [(206, 102), (249, 105), (227, 130), (204, 142), (247, 144)], np.float32
)
