"""Likeness through the real encoder, decoder, detector and recogniser, of known faces."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from flows.artifacts import result_rows
from lynx_engine.campaign import open_campaign
from lynx_engine.digest import digest_file
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.identity.detect import Face, find_faces
from lynx_engine.identity.evaluators import DlibEvaluator, choose_evaluator
from lynx_engine.identity.score import LikenessTarget, score_likeness
from lynx_engine.identity.vault import Vault
from lynx_engine.jobs import RenderJob, RenderPlan
from lynx_engine.likeness import SubjectLikeness
from lynx_engine.lock import lock_campaign
from lynx_engine.media import look
from lynx_engine.media.video import ClipFormat, encode_clip, read_frames
from lynx_engine.orders import ClipDraft, RenderTask, setup_for
from lynx_engine.pool import InProcessPool
from lynx_engine.preflight import Preflight, face_keys, find_subject_faces
from lynx_engine.provenance.store import read_log
from lynx_engine.results import Findings, Likeness
from lynx_engine.settings import Settings
from lynx_engine.shapes import FrameSize
from lynx_engine.worker import DeviceWorker
from tests.support.faces import KINDS, face_frames, faces_registered
from tests.support.jobs import make_job, plan_of
from tests.support.pools import Watcher, ignore
from tests.support.renders import ASTRONAUT, ASTRONAUT_LANDMARKS, astronaut
from tests.support.workspaces import Workspace

Picture = npt.NDArray[np.uint8]

SIZE = FrameSize(256, 256)


@pytest.fixture(scope="module", autouse=True)
def _engine() -> Generator[None]:
    with faces_registered():
        yield


@pytest.fixture(autouse=True)
def _no_insightface_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path / "insightface"))


def face_job(words: str, **changes: Any) -> RenderJob:
    """A row of the test engine, of the portrait."""
    photos = changes.pop("photos", (ASTRONAUT,))
    plain = {
        "variant": "faces",
        "subject": "astronaut",
        "prompt": words,
        "prompt_name": words.split(maxsplit=1)[0],
        "photos": photos,
        "subject_digest": ",".join(digest_file(photo) for photo in photos),
        "frames": 5,
        "size": SIZE,
    }
    return make_job(**{**plain, **changes})


def preflight_of(*jobs: RenderJob) -> Preflight:
    keys = {key for job in jobs for key in face_keys(job)}
    return Preflight(dict.fromkeys(keys, ASTRONAUT_LANDMARKS), {})


def target_of(job: RenderJob, setting: str = "dlib") -> LikenessTarget:
    target = SubjectLikeness(preflight_of(job), setting).likeness_of(job)
    assert target is not None
    return target


def render(folder: Path, job: RenderJob, target: LikenessTarget | None) -> ClipDraft:
    settings = Settings(workspace=folder, cache=folder / "cache")
    device = DeviceWorker(setup_for(settings, "cpu", "cpu", expendable=False))
    return device.render(RenderTask(job, None, folder / "draft.mp4", target), ignore)


def test_decoded_frames_have_the_colours_that_were_encoded(tmp_path: Path) -> None:
    frames = face_frames("right", 5, SIZE)
    path = tmp_path / "clip.mp4"
    encode_clip(frames, path, ClipFormat(5, 8, SIZE, "h264", 4))
    decoded = read_frames(path)
    assert (decoded.shape, decoded.dtype) == (frames.shape, np.uint8)
    off = decoded.astype(int) - frames
    assert np.abs(off.mean(axis=(0, 1, 2))).max() < 0.5, "read as another colour space or range"
    assert np.abs(off).mean() < 2
    for colour in ((255, 0, 0), (0, 255, 0), (30, 30, 200)):
        flat = np.full((2, 64, 64, 3), colour, np.uint8)
        encode_clip(flat, path, ClipFormat(2, 8, FrameSize(64, 64), "h264", 4))
        assert np.abs(read_frames(path).astype(int) - colour).max() <= 4


def test_clip_that_is_cut_off_is_not_decoded_in_part(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    encode_clip(face_frames("right", 9, SIZE), path, ClipFormat(9, 8, SIZE, "h264", 18))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(RowError, match="does not decode cleanly"):
        read_frames(path)


def test_known_faces_get_the_scores_that_a_person_would_give(
    tmp_path: Path, figure: Callable[[str], None]
) -> None:
    scored: dict[str, Likeness] = {}
    for kind in KINDS:
        job = face_job(kind)
        draft = render(tmp_path, job, target_of(job))
        likeness = draft.findings.likeness
        assert likeness is not None
        scored[kind] = likeness
        assert draft.worker.stages_s["score"] > 0
        assert draft.findings.look is not None
        assert not draft.findings.look.frozen
    figures = str(scored)
    figure("LIKENESS clips " + " ".join(f"{kind}={one.mean}" for kind, one in scored.items()))
    right, drifting, wrong, two = (
        numbers(scored[kind]) for kind in ("right", "drifting", "wrong", "two")
    )
    assert right.mean > 0.75, figures
    assert abs(right.slope_per_s) < 0.02, figures
    assert wrong.mean < 0.3, figures
    # From one to the other within the 0.5 s of the clip, downwards.
    assert drifting.least < 0.3 < drifting.mean < right.least, figures
    assert drifting.slope_per_s == pytest.approx((wrong.mean - right.mean) / 0.5, rel=0.3), figures
    # The right person counts where a stranger stands beside.
    assert two.mean > 0.6, figures
    assert [found.face_share for found in scored.values()] == [1, 1, 1, 0, 1]
    none = scored["none"]
    assert (none.mean, none.least, none.slope_per_s, none.frames) == (None, None, None, 5)


class Numbers(NamedTuple):
    mean: float
    least: float
    slope_per_s: float


def numbers(likeness: Likeness) -> Numbers:
    mean, least, slope = likeness.mean, likeness.least, likeness.slope_per_s
    assert mean is not None
    assert least is not None
    assert slope is not None
    return Numbers(mean, least, slope)


class Bright:
    """Scores the brightness at a face's nose, so that what is expected can be computed."""

    name = "bright 1 (MIT)"
    calibration = "uncalibrated"
    threshold: float | None = None

    def embed(self, picture: Picture, face: Face) -> npt.NDArray[np.float32]:
        x, y = face.landmarks[2].round().astype(int)
        return picture[y, x, :1].astype(np.float32)

    def score(self, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
        del a
        return float(b[0]) / 255


class Broken(Bright):
    """Gives no number."""

    name = "broken 1 (MIT)"

    def score(self, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
        del a, b
        return math.nan


def test_sixteen_frames_are_scored_and_the_slope_is_by_the_second() -> None:
    frames = np.repeat(face_frames("right", 1, SIZE), 49, axis=0)
    (face,) = find_faces(frames[0])
    x, y = face.landmarks[2].round().astype(int)
    levels = np.linspace(200, 104, 49)
    frames[:, y, x] = levels[:, None]  # one pixel: the detector hardly minds
    target = LikenessTarget("here", Bright.name, np.zeros(1, np.float32))
    likeness = score_likeness(frames, target, Bright(), fps=16)
    chosen = levels.astype(np.uint8)[look.spread(49, 16)] / 255
    assert (likeness.frames, likeness.face_share) == (16, 1)
    assert likeness.mean == pytest.approx(chosen.mean(), abs=0.01)
    assert likeness.least == pytest.approx(104 / 255, abs=0.01)
    # 96 levels in the 3 s from the first frame to the last.
    assert likeness.slope_per_s == pytest.approx(-96 / 255 / 3, rel=0.05)
    short = score_likeness(frames[:1], target, Bright(), fps=16)
    assert (short.frames, short.slope_per_s) == (1, None)


def broken() -> Broken:
    return Broken()


def someone() -> Bright:
    return Bright()


GATE = "0.5, 3 seeds, best; by a recogniser"


UNSCORABLE = pytest.mark.parametrize(
    ("setting", "name", "said"),
    [
        (f"{__name__}:broken", Broken.name, "gave a score that is no number at frame 0"),
        (
            f"{__name__}:someone",
            "bright 2 (MIT)",
            "by bright 2 .*found bright 1 .*Install the same",
        ),
        ("insightface", "insightface 9", "no insightface pack with a recognition network"),
    ],
)


@UNSCORABLE
def test_clip_that_cannot_be_scored_is_kept_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, setting: str, name: str, said: str
) -> None:
    job = face_job("right")
    target = LikenessTarget(setting, name, np.zeros(1, np.float32))
    with caplog.at_level(logging.WARNING):
        draft = render(tmp_path, job, target)
    assert draft.findings.likeness is None
    assert draft.findings.look is not None
    assert draft.path.exists()
    (warned,) = (record.getMessage() for record in caplog.records)
    assert re.match(f"nobody scored {job.clip_name}: .*{said}", warned)


@UNSCORABLE
def test_clip_that_cannot_be_scored_fails_where_a_gate_waits_for_the_score(
    tmp_path: Path, setting: str, name: str, said: str
) -> None:
    target = LikenessTarget(setting, name, np.zeros(1, np.float32))
    with pytest.raises(RowError, match=f"gate waits for a score.*{said}") as caught:
        render(tmp_path, face_job("right", gate=GATE), target)
    assert (caught.value.code, caught.value.transient) == (ErrorCode.SCORE, False)
    assert not (tmp_path / "draft.mp4").exists()


def test_worker_without_dlib_keeps_the_clip_and_a_gate_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = face_job("right")
    target = target_of(job)
    for module in ("dlib", "face_recognition_models"):
        monkeypatch.setitem(sys.modules, module, None)
    assert render(tmp_path, job, target).findings.likeness is None
    with pytest.raises(RowError, match=r"pip install 'lynx_engine\[score\]'"):
        render(tmp_path, replace(job, gate=GATE), target)


def test_fault_of_the_flow_costs_the_look_and_not_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken_flow(*_: object) -> None:
        raise ArithmeticError("no flow")

    monkeypatch.setattr("lynx_engine.media.look._motion", broken_flow)
    draft = render(tmp_path, face_job("none", photos=()), None)
    assert draft.findings.look is None
    assert "ArithmeticError: no flow" in caplog.text


def test_clip_that_cannot_be_decoded_again_is_kept_without_a_gate_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken_decoder(_: Path) -> None:
        raise MemoryError("97 MB")

    monkeypatch.setattr("lynx_engine.worker.read_frames", broken_decoder)
    draft = render(tmp_path, face_job("none", photos=()), None)
    assert draft.findings == Findings()
    assert "nobody looked at" in caplog.text
    with pytest.raises(MemoryError):
        render(tmp_path, face_job("none", photos=(), gate=GATE), None)
    assert not draft.path.exists()


def test_photo_is_embedded_once_for_all_rows_and_all_campaigns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    embed = DlibEvaluator.embed

    def counted(self: DlibEvaluator, picture: Picture, face: Face) -> npt.NDArray[np.float32]:
        runs.append(1)
        return embed(self, picture, face)

    monkeypatch.setattr(DlibEvaluator, "embed", counted)
    jobs = [face_job("right", seed=seed) for seed in (1, 2, 3)]
    vault = Vault(tmp_path / "faces", workspace_key=b"k" * 32, days=30.0)
    with caplog.at_level(logging.INFO):
        first = SubjectLikeness(preflight_of(*jobs), "dlib", vault=vault)
        targets = [first.likeness_of(job) for job in jobs]
        second = SubjectLikeness(preflight_of(*jobs), "dlib", vault=vault)
        again = second.likeness_of(jobs[0])
    assert (len(runs), first.embedded, second.embedded) == (1, 1, 0)
    assert caplog.messages == ["the evaluator recognised a photo of subject 'astronaut'"]
    assert again is not None
    for target in targets:
        assert target is not None
        assert (target.embedding == again.embedding).all()
    third = SubjectLikeness(preflight_of(*jobs), "dlib", vault=vault)
    third.likeness_of(replace(jobs[0], subject="visitor"))
    (kept,) = vault.kept()
    assert (third.embedded, kept.names) == (0, ("astronaut", "visitor"))
    assert "embedding" not in repr(again), "what is printed may reach a log"
    assert SubjectLikeness(preflight_of(), "none").likeness_of(jobs[0]) is None
    assert first.likeness_of(face_job("none", photos=())) is None


def test_several_photos_make_one_target_in_the_middle(tmp_path: Path) -> None:
    import cv2

    mirrored = tmp_path / "mirrored.png"
    cv2.imwrite(str(mirrored), astronaut()[:, ::-1, ::-1])
    one, other, both = (
        target_of(face_job("right", photos=photos)).embedding
        for photos in ((ASTRONAUT,), (mirrored,), (ASTRONAUT, mirrored))
    )
    assert np.abs(both - (one + other) / 2).max() < 1e-6


def test_photo_that_changed_is_not_embedded_and_fails_a_gated_row_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(ASTRONAUT.read_bytes())
    job = replace(face_job("right", photos=(photo,)), subject_digest="0" * 64)
    likeness = SubjectLikeness(preflight_of(job), "dlib")
    assert likeness.likeness_of(job) is None
    assert "nobody scores subject 'astronaut'" in caplog.text
    with pytest.raises(RowError, match="changed after the campaign was planned") as caught:
        likeness.likeness_of(replace(job, gate=GATE))
    assert caught.value.code is ErrorCode.SCORE


def write_recogniser(path: Path) -> None:
    """Write an ArcFace-shaped network: the mean of each of 7x7 fields of the crop, by channel."""
    crop = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, 112, 112])
    out = helper.make_tensor_value_info("683", TensorProto.FLOAT, [1, 147])
    nodes = [
        helper.make_node(
            "AveragePool", ["input.1"], ["fields"], kernel_shape=[16, 16], strides=[16, 16]
        ),
        helper.make_node("Flatten", ["fields"], ["683"]),
    ]
    graph = helper.make_graph(nodes, "recogniser", [crop], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True)
    onnx.save(model, path)


def test_insightface_pack_scores_by_the_cosine_of_its_own_embeddings(tmp_path: Path) -> None:
    path = tmp_path / "insightface" / "models" / "made_here" / "w600k_r50.onnx"
    write_recogniser(path)
    job = face_job("right")
    target = target_of(job, "auto")
    assert target.setting == "insightface"
    assert target.embedding.shape == (147,)
    assert np.linalg.norm(target.embedding) == pytest.approx(1, abs=1e-5)
    # The same by hand: the crop's fields, RGB in [-1, 1] as the network was trained.
    from lynx_engine.identity.align import identity_crop

    (face,) = find_faces(astronaut())
    crop = identity_crop(astronaut(), face.landmarks).astype(np.float64) / 127.5 - 1
    fields = crop.reshape(7, 16, 7, 16, 3).mean(axis=(1, 3)).transpose(2, 0, 1).ravel()
    assert np.abs(target.embedding - fields / np.linalg.norm(fields)).max() < 1e-3
    likeness = render(tmp_path, job, target).findings.likeness
    assert likeness is not None
    assert likeness.mean is not None
    assert 0.9 < likeness.mean <= 1
    assert likeness.calibration == "uncalibrated"
    assert "made_here/w600k_r50.onnx (non-commercial research only)" in likeness.evaluator


def test_scoring_leaves_the_other_cores_to_the_render(tmp_path: Path) -> None:
    import cv2

    cv2.setNumThreads(2)
    path = tmp_path / "insightface" / "models" / "made_here" / "w600k_r50.onnx"
    write_recogniser(path)
    render(tmp_path, face_job("right", frames=2), target_of(face_job("right"), "insightface"))
    assert cv2.getNumThreads() == 1
    evaluator: Any = choose_evaluator("insightface")
    options = evaluator._network.session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_network_of_a_pack_that_recognises_nobody_is_named(tmp_path: Path) -> None:
    from tests.integration.test_insightface import write_detector

    path = tmp_path / "insightface" / "models" / "made_here" / "w600k_r50.onnx"
    write_detector(path)
    chosen = choose_evaluator("insightface")
    assert chosen is not None
    face = Face((182, 63, 269, 174), ASTRONAUT_LANDMARKS, 1.0)
    with pytest.raises(RowError, match=r"made_here/w600k_r50\.onnx is not an ArcFace network"):
        chosen.embed(astronaut(), face)


def run(plan: RenderPlan, settings: Settings) -> list[dict[str, str]]:
    with (
        lock_campaign(settings.campaign_dir("trial")) as lock,
        open_campaign(
            lock,
            plan,
            InProcessPool(settings, "cpu"),
            settings=settings,
            faces=find_subject_faces(plan),
            observer=Watcher(),
        ) as campaign,
    ):
        for turn in campaign.turns():
            campaign.render_row(turn)
        return result_rows(campaign)


def test_log_status_show_and_prefect_tell_the_likeness_of_a_campaign(tmp_path: Path) -> None:
    settings = Settings(workspace=tmp_path, cache=tmp_path / "cache", evaluator="dlib")
    jobs = [face_job(kind, frames=2) for kind in ("right", "wrong", "none")]
    sleeper = make_job(variant="sleeper", frames=5, size=FrameSize(32, 32), prompt="")
    table = run(plan_of(*jobs, sleeper), settings)
    told = {row["prompt"]: row["likeness"] for row in table}
    log = {row["prompt_name"]: row for row in read_log("trial", settings=settings).to_dicts()}
    right, wrong = log["right"]["identity_mean"], log["wrong"]["identity_mean"]
    assert told == {
        "right": f"{right:.2f}",
        "wrong": f"{wrong:.2f}",
        "none": "no face",
        "beach": "",
    }
    assert log["right"]["score_s"] > 0
    assert log["none"]["face_share"] == 0
    assert log["none"]["identity_mean"] is None
    assert log["beach"]["face_share"] is None, "nobody looked for faces in stripes"
    assert log["beach"]["motion"] > 0

    workspace = Workspace(tmp_path)
    (tmp_path / "lynx.toml").touch()
    lines = workspace.run("log", "trial").stdout.splitlines()
    assert "likeness" in " ".join(lines[:3])
    assert all(
        any(kind in line and told[kind] in line for line in lines)
        for kind in ("right", "wrong", "none")
    )
    said = workspace.run("status", "trial").stdout
    mean = (right + wrong) / 2
    assert f"trial: likeness {mean:.2f} in 3 clips, 1 under 0.4, 1 without a face; least " in said
    assert "a face in 67% of the frames (dlib 20." in said
    (summary,) = workspace.json("status", "trial")["likeness"]["trial"]
    assert summary["mean"] == pytest.approx(mean)
    assert (summary["under"], summary["no_face"], summary["threshold"]) == (1, 1, 0.4)
    shown = workspace.run("show", log["none"]["job_id"][:12], "--json").stdout
    assert json.loads(shown, parse_constant=_no_constant)[0]["identity_mean"] is None
    listed = workspace.run("log", "trial", "--json").stdout
    assert len(json.loads(listed, parse_constant=_no_constant)) == 4


def _no_constant(name: str) -> None:
    raise AssertionError(f"JSON knows no {name}")


def test_setting_of_an_evaluator_that_is_not_there_refuses_the_plan(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, {"LYNX_CACHE": str(tmp_path / "cache")})
    workspace.write("lynx.toml", 'evaluator = "facenet"\n')
    workspace.write("m.csv", "variant,prompt,seed\nsleeper,sleep=0,1\n")
    done = workspace.run("plan", "m.csv")
    assert done.returncode == 2
    assert "evaluator: unknown evaluator 'facenet'; it is auto, insightface" in done.stderr
