"""`--lowvram` as a user meets it: the same clip, less on the device, and a record that says so."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tests.support.workspaces import Workspace

MANIFEST = [
    "campaign: small",
    "defaults: {variant: tiny_lite, frames: 5, steps: 1}",
    "subjects:",
    "  host: {image: host.png, consent: {basis: public-domain}}",
    "rows:",
    "  - {subject: host, text: A person waves.}",
    "  - {subject: host, text: A person sings., memory: balanced}",
]
ASTRONAUT = Path(__file__).parents[2] / "manifests" / "subjects" / "astronaut.png"


def render(folder: Path, cache: Path, *options: str) -> tuple[Workspace, pl.DataFrame]:
    folder.mkdir()
    space = Workspace(folder, {"LYNX_CACHE": str(cache)})
    space.write("lynx.toml", "")
    (folder / "host.png").write_bytes(ASTRONAUT.read_bytes())
    space.write("small.yaml", MANIFEST)
    done = space.run("render", "small.yaml", "--in-process", *options)
    assert done.returncode == 0, done.stderr
    return space, pl.concat(map(pl.read_parquet, space.parts("small"))).sort("prompt")


def test_lowvram_renders_the_same_frames_and_the_same_ids(tmp_path: Path, cache: Path) -> None:
    _, usual = render(tmp_path / "usual", cache)
    space, low = render(tmp_path / "low", cache, "--lowvram")
    assert usual["memory_tier"].to_list() == ["balanced", "resident"]
    assert usual["streamed_blocks"].to_list() == [2, 0]
    assert low["memory"].to_list() == low["memory_tier"].to_list() == ["low", "low"]
    assert low["streamed_blocks"].to_list() == [4, 4]
    for column in ("job_id", "frames_digest", "clip"):
        assert low[column].to_list() == usual[column].to_list()
    again = space.run("render", "small.yaml", "--in-process")
    assert "nothing to do" in again.stdout
