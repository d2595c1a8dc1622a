"""A clip leads to its row, the row to a manifest, and the manifest to the same frames again."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.run import render
from lynx_engine.cli import show
from lynx_engine.errors import RefusedError
from lynx_engine.jobs import RenderPlan
from lynx_engine.manifest.read import read_manifest
from lynx_engine.media.video import decode_clip, find_ffmpeg
from lynx_engine.planning import plan_renders
from lynx_engine.provenance.store import read_log
from lynx_engine.remaking import manifest_values, remake
from lynx_engine.settings import Settings
from lynx_engine.survey import gather_facts
from tests.support.jobs import astronaut
from tests.support.loras import LAYERS, factors, write_lora
from tests.support.photos import group_photo, other_portrait

HOSTILE = [
    "no",
    "12:30",
    "</script><script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "\x1b[31mred\x1b[0m \u202egnp.exe\u200b",
    'She said: "ok" \\ #not a comment {a: [b]} & *c',
    "line one\nline two\n\n  - indented\ttab\u2028\u0085end ",
    "一位女士在海边散步，日出🌅",
]
CAMPAIGN = "autumn"


def rows() -> list[dict[str, Any]]:
    """Twenty rows that differ in all that a row can say."""
    plain = {"subject": "host", "text": "A person waves."}
    settings: list[dict[str, Any]] = [
        {"negative_prompt": "", "seed": 2**63 - 1},
        {"negative_prompt": HOSTILE[5], "guidance_text": 1.5},
        {"guidance_identity": 0.1, "guidance_text": 7.000000000000001},
        {"scale_identity": 0.25, "scale_reference": 1.75},
        {"frames": 9, "fps": 12, "steps": 3, "video": {"crf": 30}},
        {"numerics": "strict", "memory": "low", "label": "eu", "size": "64x64"},
        {"speed": "cache", "steps": 4},
        {"loras": [{"weights": "loras/film.safetensors", "scale": -0.3}]},
        {"variant": "tiny_lite", "size": "80x64"},
    ]
    return [
        *({**plain, "text": text, "seed": n} for n, text in enumerate(HOSTILE)),
        *({**plain, **more} for more in settings),
        {**plain, "subject": "guest", "seed": 5},
        {**plain, "subject": "both", "seed": 6},
        {**plain, "subject": "crowd", "seed": 7},
    ]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("studio")
    (folder / "lynx.toml").touch()
    photos = {"host": astronaut(), "guest": other_portrait(), "crowd": group_photo()}
    for name, photo in photos.items():
        (folder / "subjects").mkdir(exist_ok=True)
        shutil.copy(photo, folder / "subjects" / f"{name}.png")
    write_lora(folder / "loras/film.safetensors", factors(LAYERS, up=0.3))
    manifest = {
        "campaign": CAMPAIGN,
        "defaults": {"variant": "tiny", "frames": 5, "steps": 2, "size": "48x48"},
        "subjects": {
            "host": {"image": "subjects/host.png", "consent": {"basis": "contract: a, b"}},
            "guest": {
                "image": "subjects/guest.png",
                "consent": {"basis": "yes", "expires": "2999-01-31"},
            },
            "both": {"image": ["subjects/guest.png", "subjects/host.png"], "synthetic": True},
            "crowd": {"image": "subjects/crowd.png", "face": {"index": 1}, "synthetic": True},
        },
        "rows": rows(),
    }
    path = folder / "autumn.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    made = Settings(workspace=folder, cache=folder / "cache", evaluator="none", report=False)
    read = read_manifest(path)
    summary = render(
        plan_renders(read, gather_facts(read, made)), settings=made, devices="cpu", in_process=True
    )
    assert summary.rendered == 20, summary.failures
    return made


def clips_of(settings: Settings) -> list[Path]:
    return sorted((settings.campaign_dir(CAMPAIGN) / "clips").iterdir())


def records_of(settings: Settings) -> list[dict[str, Any]]:
    return read_log(CAMPAIGN, settings=settings).to_dicts()


def renamed(clip: Path, to: Path) -> Path:
    return Path(shutil.copy(clip, to))


def remuxed(clip: Path, to: Path) -> Path:
    command = [find_ffmpeg(), "-v", "error", "-i", str(clip), "-c", "copy", str(to)]
    subprocess.run(command, check=True)
    assert to.read_bytes() != clip.read_bytes()
    return to


def stripped(clip: Path, to: Path) -> Path:
    command = [find_ffmpeg(), "-v", "error", "-i", str(clip), "-c", "copy", "-map_metadata", "-1"]
    subprocess.run([*command, str(to)], check=True)
    return to


COPIES: list[Callable[[Path, Path], Path]] = [lambda clip, _: clip, renamed, remuxed, stripped]


def test_twenty_clips_lead_to_manifests_that_render_the_same_frames(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], figure: Any
) -> None:
    wanted: dict[str, str] = {}
    planned = []
    clips = clips_of(settings)
    for number, clip in enumerate(clips):
        copy = COPIES[number % 4](clip, tmp_path / f"somebody's {number}.mp4")
        path = tmp_path / f"again-{number}.yaml"
        show.command([str(copy)], manifest=True, output=path, workspace=settings.workspace)
        told = capsys.readouterr().err
        # Found, but not as the file that was published.
        assert ("found by" in told) == (number % 4 in {2, 3}), told
        assert "altered" not in told
        read = read_manifest(path)
        assert read.campaign == "autumn-again"
        (row,) = plan_renders(read, gather_facts(read, settings)).to_run
        wanted[row.job.job_id] = decode_clip(clip).frames_digest
        planned.append(replace(row, job=replace(row.job, campaign="again")))
    assert len(wanted) == 20
    assert len(set(wanted.values())) == 20
    elsewhere = settings.model_copy(update={"workspace": tmp_path / "elsewhere"})
    render(
        RenderPlan("again", tuple(planned), (), ()),
        settings=elsewhere,
        devices="cpu",
        in_process=True,
    )
    made = {row["job_id"]: row["clip"] for row in read_log("again", settings=elsewhere).to_dicts()}
    folder = elsewhere.campaign_dir("again") / "clips"
    same = sum(decode_clip(folder / made[job]).frames_digest == wanted[job] for job in wanted)
    assert same == 20
    figure(f"TRACE round trips={len(wanted)} same_frames={same} copies=renamed,remuxed,untagged")


def test_manifest_writes_every_setting_and_exactly_the_prompt(settings: Settings) -> None:
    for record in records_of(settings):
        again = remake(record, settings)
        assert (again.refusals, again.warnings) == ((), ())
        assert again.job is not None
        assert again.job.job_id == record["job_id"], "no gate: the very same request"
        values = yaml.safe_load(again.text())
        assert list(values["prompts"].values()) == [record["prompt"]]
        assert values["defaults"]["negative_prompt"] == record["negative_prompt"]
        assert values["rows"][0]["seed"] == record["seed"]
        assert set(values["defaults"]) == {
            "variant", "size", "frames", "fps", "steps", "guidance_text", "guidance_identity",
            "scale_identity", "scale_reference", "negative_prompt", "precision", "numerics",
            "memory", "speed", "loras", "safety", "label", "video",
        }  # fmt: skip
        assert again.text().isprintable() or "\x1b" not in again.text()
        assert not set(again.text()) & set("\x1b\u202e\u200b\u2028\u0085")


def test_clip_that_was_encoded_anew_is_found_by_its_tag_and_told_as_altered(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, copy = clips_of(settings)[0], tmp_path / "smaller.mp4"
    command = [find_ffmpeg(), "-v", "error", "-i", str(clip), "-crf", "45", str(copy)]
    subprocess.run(command, check=True)
    show.command([str(copy)], workspace=settings.workspace, json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)[0]["clip"] == clip.name
    assert "found by the job id in its tags, but altered" in err


def test_clip_of_another_workspace_is_told_to_belong_to_one(
    settings: Settings, tmp_path: Path
) -> None:
    copy = renamed(clips_of(settings)[0], tmp_path / "copy.mp4")
    job_id = next(
        r["job_id"] for r in records_of(settings) if r["clip"] == clips_of(settings)[0].name
    )
    (tmp_path / "other").mkdir()
    with pytest.raises(RefusedError, match=f"its tags name job {job_id}"):
        show.command([str(copy)], workspace=tmp_path / "other")


def test_consent_is_written_as_it_was_recorded(settings: Settings) -> None:
    subjects = {
        record["subject"]: manifest_values(record, settings.workspace)["subjects"]
        for record in records_of(settings)
    }
    assert subjects["host"]["host"]["consent"] == {"basis": "contract: a, b"}
    assert subjects["guest"]["guest"]["consent"] == {"basis": "yes", "expires": "2999-01-31"}
    assert subjects["both"]["both"]["synthetic"] is True
    assert subjects["crowd"]["crowd"]["face"] == {"index": 1}
    host = next(record for record in records_of(settings) if record["subject"] == "host")
    for word in ("none (warn)", "expired 2026-01-01 (warn)", "unchecked"):
        again = remake({**host, "consent": word}, settings)
        assert again.values["subjects"]["host"].keys() == {"image"}
        assert "names no consent that held" in str(again.warnings[0])
        assert "refused today: subject 'host' has no consent" in str(again.warnings[1])


def test_clip_of_a_further_try_is_made_from_the_seed_that_was_rendered(settings: Settings) -> None:
    record = records_of(settings)[0]
    gate = "0.55, 3 seeds, best; by dlib 20"
    again = remake({**record, "gate": gate, "gate_try": 2, "rendered_seed": 77}, settings)
    assert again.refusals == ()
    assert again.job is not None
    assert (again.job.seed, again.job.gate) == (77, "")


def test_everything_that_is_gone_or_changed_is_told_at_once(
    settings: Settings, tmp_path: Path
) -> None:
    with_lora = next(record for record in records_of(settings) if record["loras"])
    folder = Path(shutil.copytree(settings.workspace, tmp_path / "studio"))
    moved = settings.model_copy(update={"workspace": folder})
    names = {
        "photos": json.dumps(["subjects/host.png"]),
        "lora_files": json.dumps(["loras/film.safetensors"]),
    }
    record = {**with_lora, **names}
    assert remake(record, moved).refusals == ()
    (folder / "subjects/host.png").write_bytes((folder / "subjects/guest.png").read_bytes())
    (folder / "loras/film.safetensors").unlink()
    told = [str(problem) for problem in remake(record, moved).refusals]
    assert len(told) == 2
    assert "the photo is not the one of the record any more" in told[0]
    assert "film.safetensors: the LoRA is gone" in told[1]
    (folder / "subjects/host.png").unlink()
    (folder / "loras/film.safetensors").write_bytes(b"another")
    told = [str(problem) for problem in remake(record, moved).refusals]
    assert "the photo of subject 'host' is gone" in told[0]
    assert "the LoRA is not the one of the record any more" in told[1]
    old = remake({**with_lora, "photos": "[]", "lora_files": "[]"}, settings).refusals
    assert ["names no photo" in old[0].text, "by digest only" in old[1].text] == [True, True]


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("weights_fingerprint", "tiny-0", "weights changed since"),
        ("speed", "cache:first-block-0.7", "speed cache:first-block-0.7 -> cache:first-block-0.2"),
        ("variant", "gone", "this program has no such variant"),
    ],
)
def test_what_would_be_another_clip_is_refused(
    settings: Settings, column: str, value: str, told: str
) -> None:
    again = remake({**records_of(settings)[0], column: value}, settings)
    assert told in str(again.refusals[0])


def test_what_may_only_round_otherwise_is_a_warning(settings: Settings) -> None:
    record = {**records_of(settings)[0], "torch_version": "1.0", "face_detector": "by hand"}
    again = remake(record, settings)
    assert again.refusals == ()
    assert "torch 1.0 -> " in str(again.warnings[0])
    assert "face detector" in str(again.warnings[1])


def test_manifest_is_never_written_over_a_file(settings: Settings, tmp_path: Path) -> None:
    (clip, *_) = clips_of(settings)
    copy = renamed(clip, tmp_path / "mine.mp4")
    with pytest.raises(RefusedError, match="is there already"):
        show.command(
            [str(clip)], manifest=True, output=copy, workspace=settings.workspace, json=False
        )
    assert copy.read_bytes() == clip.read_bytes()
