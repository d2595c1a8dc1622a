"""A face leaves no trace but an encrypted one, through Prefect, Dask and the installed command."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from lynx_engine.digest import digest_file
from lynx_engine.faces import SubjectFaces
from lynx_engine.identity.embed import SubjectFace
from lynx_engine.identity.vault import Vault, open_vault
from lynx_engine.jobs import RenderPlan
from lynx_engine.likeness import SubjectLikeness
from lynx_engine.manifest.read import read_manifest
from lynx_engine.orders import ClipDraft, FaceRequest, RenderTask
from lynx_engine.planning import plan_renders
from lynx_engine.pool import InProcessPool
from lynx_engine.preflight import find_subject_faces
from lynx_engine.provenance.store import read_log
from lynx_engine.rendering import OnStage
from lynx_engine.settings import Settings
from lynx_engine.survey import gather_facts
from tests.faults.disk import CAMPAIGN, run_trial
from tests.support.traces import (
    Needles,
    count_traces,
    crop_needles,
    digest_needles,
    embedding_needles,
    find_traces,
)
from tests.support.workspaces import Workspace

EVIDENCE = "signed-by-her-own-hand-in-nineteen-eighty-three"
MANIFEST = """
campaign: {campaign}
subjects:
  host: {{image: one.png, consent: {{basis: contract, evidence: {evidence}.pdf}}}}
prompts: {{walk: A walk on the beach.}}
matrix:
  - {{subject: host, prompt: [walk], seed: [{seed}], variant: tiny}}
"""


def write_campaign(workspace: Workspace, campaign: str, seed: int) -> Path:
    text = MANIFEST.format(campaign=campaign, evidence=EVIDENCE, seed=seed)
    return workspace.write(f"{campaign}.yaml", text)


def settings_of(workspace: Workspace) -> Settings:
    return Settings(workspace=workspace.folder, cache=Path(workspace.variables["LYNX_CACHE"]))


def planned_in(manifest: Path, settings: Settings) -> RenderPlan:
    read = read_manifest(manifest)
    return plan_renders(read, gather_facts(read, settings))


def recognised_in(manifest: Path, settings: Settings, aside: Path) -> SubjectFace:
    """Return the subject's face by a recogniser in this process, which knows no other."""
    plan = planned_in(manifest, settings)
    faces = SubjectFaces(
        find_subject_faces(plan),
        InProcessPool(settings, "cpu"),
        vault=Vault(aside, workspace_key=b"k", days=1),
        settings=settings,
    )
    face = faces.face_of(plan.to_run[0].job, "cpu")
    assert face is not None
    return face


class NeverAsked(InProcessPool):
    """A pool that renders, and fails if it is asked for a face."""

    def embed_face(self, device: str, request: FaceRequest) -> SubjectFace:
        raise AssertionError(f"{request.photo} was known, and is embedded again on {device}")

    def render(self, device: str, task: RenderTask, on_stage: OnStage) -> ClipDraft:
        assert task.face is not None
        self.face = task.face
        return super().render(device, task, on_stage)


def log_of(workspace: Workspace, campaign: str) -> str:
    return (workspace.folder / "outputs" / campaign / "campaign.log").read_text()


def test_face_is_embedded_once_kept_unseen_and_forgotten_to_the_last_byte(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = write_campaign(workspace, "first", 1), write_campaign(workspace, CAMPAIGN, 2)
    talkative = {"PREFECT_LOGGING_LEVEL": "DEBUG", "DASK_LOGGING__DISTRIBUTED": "debug"}
    rendered = workspace.run("render", first.name, **talkative)
    assert rendered.returncode == 0, rendered.stderr
    assert "the face of host was recognised on cpu" in log_of(workspace, "first")

    settings = settings_of(workspace)
    fresh = recognised_in(second, settings, tmp_path / "aside")
    pool = NeverAsked(settings, "cpu")
    plan = planned_in(second, settings)
    with caplog.at_level(logging.INFO, logger="lynx_engine.faces"):
        caplog.clear()
        summary = run_trial(settings, pool, plan, faces=find_subject_faces(plan))
    assert summary.rendered == 1
    told = [r.getMessage() for r in caplog.records if r.name == "lynx_engine.faces"]
    assert told == ["the face of host was known"]
    for name in ("embedding", "reference_crop", "landmarks"):
        np.testing.assert_array_equal(getattr(pool.face, name), getattr(fresh, name), strict=True)

    target = SubjectLikeness(find_subject_faces(plan), "dlib").likeness_of(plan.to_run[0].job)
    assert target is not None
    (record,) = read_log("first", settings=settings).to_dicts()
    assert record["evaluator"] == target.evaluator, "the command scored by it, so it embedded, too"
    needles: Needles = {
        "embedding": embedding_needles(fresh.embedding),
        "likeness": embedding_needles(target.embedding),
        "landmarks": embedding_needles(fresh.landmarks.ravel()),
        "crop": crop_needles(fresh.reference_crop),
        "digest": digest_needles(digest_file(workspace.folder / "one.png")),
        "evidence": [EVIDENCE.encode()],
    }
    (clip,) = workspace.clips("first")
    assert (workspace.folder / ".lynx/prefect/first/prefect.db").stat().st_size > 0
    for place in ("outputs", ".lynx"):
        assert find_traces(workspace.folder / place, needles) == []
    # The log is compressed: its values are looked at, too.
    values = tmp_path / "values"
    values.mkdir()
    (values / "log.txt").write_text(str(read_log("first", settings=settings).to_dicts()))
    assert find_traces(values, needles) == []
    assert needles["evidence"][0] in first.read_bytes(), "the scan knows what it looks for"

    entries = sorted(workspace.folder.glob(".lynx/faces/*/*.face"))
    assert len(entries) == 3, "where the face is, what conditions the clips, and what judges them"
    (key,) = {entry.with_name("key").read_bytes() for entry in entries}
    sealed = [entry.read_bytes() for entry in entries]
    planned = workspace.json("forget", "host", "--clips", "--dry-run")
    assert all(entry.exists() for entry in entries)
    assert len(planned["removed"]) == 5, "what is kept of the face, two clips and their posters"
    done = workspace.json("forget", "host", "--clips")
    assert (done["removed"], done["exit_code"]) == (planned["removed"], 0)
    secrets = {
        "key": [key[:16]],
        "sealed": [data[at : at + 32] for data in sealed for at in range(0, len(data) - 32, 999)],
    }
    assert count_traces(workspace.folder, secrets).total() == 0
    assert not clip.exists()
    assert len(workspace.json("log", "first")) == 1, "the records stay"
    assert "host: nothing is kept." in workspace.run("forget", "host", "--clips").stdout
    assert os.listdir(workspace.folder / ".lynx" / "faces") == [".lock"]  # noqa: PTH208


def test_unknown_name_is_refused_with_the_nearest_one_and_nothing_is_forgotten(
    workspace: Workspace,
) -> None:
    write_campaign(workspace, "first", 1)
    done = workspace.run("forget", "hots", "--manifest", "first.yaml")
    assert done.returncode == 2
    assert "1 problem, nothing was forgotten" in done.stderr
    assert "did you mean 'host'?" in done.stderr
    known = workspace.run("forget", "host", "--manifest", "first.yaml")
    assert (known.returncode, known.stdout) == (0, "host: nothing is kept.\n")


def test_clean_removes_what_is_past_its_days(workspace: Workspace) -> None:
    vault = open_vault(settings_of(workspace))
    vault.put("ab" * 32, "entry", b"data", name="host")
    (photo,) = vault.kept()
    assert workspace.json("clean")["removed"] == []
    over = {"LYNX_FACE_DAYS": "1e-9"}
    for words, left in ((["--dry-run"], True), ([], False)):
        done = workspace.run("clean", "--json", *words, **over)
        told = json.loads(done.stdout)
        assert told["removed"] == [{"path": str(photo.folder), "bytes": photo.size_bytes}]
        assert photo.folder.exists() is left
