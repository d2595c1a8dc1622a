"""Who logs a value of ours, as Dask does with a request that failed, tells nothing of a face."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lynx_engine.identity.detect import Face
from lynx_engine.identity.embed import SubjectFace
from lynx_engine.identity.found import FoundPhoto
from lynx_engine.identity.quality import FaceMeasures
from lynx_engine.identity.score import LikenessTarget
from lynx_engine.manifest.values import Consent
from lynx_engine.orders import FaceRequest, RenderTask
from lynx_engine.planning import PhotoFacts
from tests.support.jobs import make_job

NUMBER = 0.7654321
DIGEST = "d1" * 32
HASH = 76543217654321
EVIDENCE = "drawer-seven.pdf"
LANDMARKS = np.full((5, 2), NUMBER, np.float32)
FACE = SubjectFace(LANDMARKS, np.full(512, NUMBER, np.float32), np.zeros((256, 256, 3), np.uint8))
TARGET = LikenessTarget("dlib", "dlib", np.full(128, NUMBER, np.float32))
MEASURES = FaceMeasures(1, 2, 3, 4, 5, 6, 7, HASH)
JOB = replace(make_job(), subject_digest=f"{DIGEST},{DIGEST}")


@pytest.mark.parametrize(
    "value",
    [
        RenderTask(JOB, FACE, Path("draft.mp4"), TARGET),
        FaceRequest("tiny", "float32", Path("one.png"), DIGEST, LANDMARKS),
        PhotoFacts(DIGEST, 512, 512),
        FoundPhoto(512, 512, HASH, (Face((0, 0, 1, 1), LANDMARKS, 1.0),), (MEASURES,)),
        Consent("contract", "", None, EVIDENCE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_text_of_a_value_holds_no_face_no_digest_and_no_evidence(value: object) -> None:
    told = repr(value)
    for secret in ("0.76", "array", DIGEST[:8], FACE.digest[:8], str(HASH), EVIDENCE):
        assert secret not in told
