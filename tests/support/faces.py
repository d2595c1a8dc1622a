"""A test engine whose frames hold known faces, to be scored through the real encoder and detector.

The subject is the portrait of the quick start; the other person is one of a group in a picture
that insightface ships, read from there.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from lynx_engine.identity.embed import SubjectFace
from lynx_engine.jobs import RenderJob
from lynx_engine.rendering import EnginePlace, LoadedEngine, OnStage, Rendering
from lynx_engine.results import Conditions
from lynx_engine.shapes import FrameSize
from lynx_engine.variants import REGISTRY, get_variant
from lynx_engine.variants.sleeper import SPEC as SLEEPER
from lynx_engine.variants.spec import IdentityAdapterSpec, VariantSpec
from tests.support.renders import astronaut

Picture = npt.NDArray[np.uint8]

KINDS = ("right", "drifting", "wrong", "none", "two")

SPEC = replace(
    SLEEPER,
    name="faces",
    summary="no model: pastes the faces that its prompt asks for",
    loader="tests.support.faces:load_faces",
    face_encoder="none",
    identity=IdentityAdapterSpec(block_stride=1, shares_text_key_norm=True),
    recipe="faces-1",
    defaults=replace(
        SLEEPER.defaults,
        size=FrameSize(256, 256),
        frames=17,
        scale_identity=1.0,
        guidance_identity=1.0,
    ),
)


def shipped(package: str, path: str) -> Picture:
    """Return a picture that lies inside an installed package, RGB uint8 [H, W, 3]."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    picture = cv2.imread(str(Path(spec.origin).parent / path))
    assert picture is not None
    return picture[..., ::-1].astype(np.uint8)


@cache
def portrait() -> Picture:
    """Return the head of the portrait, RGB uint8 [180, 180, 3]."""
    return astronaut()[30:210, 136:316]


@cache
def stranger() -> Picture:
    """Return somebody else's head, RGB uint8 [260, 260, 3]."""
    return shipped("insightface", "data/images/t1.jpg")[200:460, 390:650]


def face_frames(words: str, frames: int, size: FrameSize) -> Picture:
    """Return frames with known faces on a grey background that moves, RGB uint8 [F, H, W, 3].

    Args:
        words: A prompt with one of the `KINDS`: the `right` face; one `drifting` from the right
            to another person's; the `wrong` one; `none`; or `two`, right and wrong side by side.
        frames: F.
        size: 128x128 at least, so that faces can be found.
    """
    (kind,) = set(words.split()) & set(KINDS)
    clip = np.empty((frames, size.height_px, size.width_px, 3), np.uint8)
    row, column = np.mgrid[: size.height_px, : size.width_px]
    side = min(size.height_px, size.width_px) * (48 if kind == "two" else 80) // 100
    right, wrong = (cv2.resize(head, (side, side)) for head in (portrait(), stranger()))
    top = (size.height_px - side) // 2
    for number, frame in enumerate(clip):
        frame[...] = (118 + 10 * np.sin((row + column + 3 * number) / 12))[..., None]
        part = number / max(frames - 1, 1)
        shown = {
            "right": [right],
            "drifting": [cv2.addWeighted(right, 1 - part, wrong, part, 0)],
            "wrong": [wrong],
            "none": [],
            "two": [wrong, right],
        }[kind]
        for place, head in enumerate(shown):
            left = (size.width_px - side * len(shown)) // 2 + place * side
            frame[top : top + side, left : left + side] = head
    return clip


class FacePaster:
    """See `rendering.Engine`."""

    def embed_face(self, photo: Picture, landmarks: npt.ArrayLike) -> SubjectFace:
        """Return an empty embedding: nothing is conditioned on it."""
        del photo
        return SubjectFace(
            landmarks=np.asarray(landmarks, np.float32),
            embedding=np.zeros(512, np.float32),
            reference_crop=np.zeros((256, 256, 3), np.uint8),
        )

    def render(
        self, job: RenderJob, face: SubjectFace | None, *, on_stage: OnStage | None = None
    ) -> Rendering:
        """Paste what the prompt says; `SEED=KIND` in it says another kind for that seed."""
        del face, on_stage
        words = job.prompt.split()
        asked = dict(word.split("=") for word in words if "=" in word)
        plain = " ".join(word for word in words if "=" not in word)
        return Rendering(
            frames=face_frames(asked.get(str(job.seed), plain), job.frames, job.size),
            stages_s={"text": 0.0, "subject": 0.0, "denoise": 0.0, "decode": 0.0},
            peak_memory_bytes=0,
            conditions=Conditions(attention_backend="none"),
        )


def load_faces(spec: VariantSpec, place: EnginePlace) -> LoadedEngine:
    """Return an engine that pastes faces; it has no weights."""
    del spec, place
    return LoadedEngine(FacePaster(), {})


@contextmanager
def faces_registered() -> Generator[None]:
    """Have the variant `faces` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "faces", __name__)
        get_variant.cache_clear()
        yield
    get_variant.cache_clear()
