"""Labels, tags and posters of clips that the installed command rendered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lynx_engine.media.burn_in import burn_in, plate_for
from lynx_engine.media.tags import read_tags
from lynx_engine.media.video import read_frames
from lynx_engine.provenance.labels import job_id_in
from tests.support.workspaces import Workspace

MANIFEST = """campaign: trial
defaults: {variant: sleeper, size: 128x64, frames: 21, fps: 8}
rows:
  - {text: plain, seed: 1}
  - {text: "同一个提示; a=b #1 </script>", seed: 1, label: eu}
  - {text: "same", seed: 1, label: cn}
  - {subject: host, text: "A person waves.", seed: 1, size: 64x64, frames: 5, label: eu}
subjects: {host: {image: one.png, synthetic: true}}
"""


def rows_by_label(workspace: Workspace) -> dict[tuple[str, str], dict[str, object]]:
    rows = workspace.json("log", "trial")
    return {(row["subject"], row["label"]): row for row in rows}


def clip_of(workspace: Workspace, row: dict[str, object]) -> Path:
    return workspace.folder / "outputs/trial/clips" / str(row["clip"])


def test_labelled_rows_show_their_label_and_every_clip_tells_its_origin(
    workspace: Workspace,
) -> None:
    workspace.write("m.yaml", MANIFEST)
    workspace.write("lynx.toml", 'producer = "Studio Nord"\n')
    done = workspace.run("render", "m.yaml", "--in-process")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_by_label(workspace)
    assert {key: row["labels_applied"] for key, row in rows.items()} == {
        ("none", "none"): "tags",
        ("none", "eu"): "tags,eu",
        ("none", "cn"): "tags,cn",
        ("host", "eu"): "tags,eu",
    }

    # The null renderer draws the same stripes for each prompt: only the label is another.
    plain = read_frames(clip_of(workspace, rows["none", "none"])).astype(int)
    for label, labelled_frames in (("eu", 21), ("cn", 16)):
        frames = read_frames(clip_of(workspace, rows["none", label])).astype(int)
        wanted = burn_in(plain.astype(np.uint8), label, 8).astype(int)
        plate = plate_for(label, 128, 64)
        h, w = plate.pixels.shape[:2]
        inside = np.s_[:, plate.top_px : plate.top_px + h, plate.left_px : plate.left_px + w]
        close = np.abs(frames - wanted)[inside].mean(axis=(1, 2, 3)) < 12
        assert close.all()
        told = np.abs(frames - plain)[inside].mean(axis=(1, 2, 3)) > 40
        assert told.sum() == labelled_frames
        assert told[:labelled_frames].all()

    for row in rows.values():
        clip = clip_of(workspace, row)
        tags = read_tags(clip)
        assert tags["title"] == clip.stem
        assert job_id_in(tags) == row["job_id"]
        assert json.loads(tags["comment"])["prompt"] == row["prompt"]
        generated = json.loads(tags["AIGC"])
        assert (generated["Label"], generated["ContentProducer"]) == ("1", "Studio Nord")
        assert generated["ProduceID"] == row["job_id"]
    posters = sorted((workspace.folder / "outputs/trial/posters").iterdir())
    assert [path.stem for path in posters] == [path.stem for path in workspace.clips("trial")]

    gone = workspace.run("forget", "host", "--clips")
    assert gone.returncode == 0, gone.stderr
    assert not any(p.name.startswith("host-") for p in (workspace.folder / "outputs").rglob("*"))
