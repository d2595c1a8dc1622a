"""`lynx-engine compare` over real clips: decoded, scored, kept, shown."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner, Result

import lynx_engine
from flows.run import render
from lynx_engine.cli.app import app
from lynx_engine.comparison.measuring import FILE, Judge, read_rows
from lynx_engine.comparison.statistics import Column, ScoredClip, compare_variants
from lynx_engine.errors import ExitCode, RefusedError
from lynx_engine.identity.withdrawals import restore, withdraw
from lynx_engine.report import comparison_page
from lynx_engine.settings import load_settings
from tests.support import faces
from tests.support.jobs import astronaut

MANIFEST = """\
campaign: trial
subjects: {host: {image: host.png, consent: {basis: public-domain}}}
prompts: {same: right, other: wrong, nobody: none, walk: A walk., talk: A talk.}
defaults: {size: 64x64, frames: 5, steps: 1}
matrix:
  - {subject: host, prompt: [walk, talk], variant: [tiny, tiny_lite], seed: 1..2}
  - {subject: host, prompt: [same, other, nobody], variant: faces, size: 256x256}
"""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """Render eleven clips: eight of noise, and three of known people."""
    folder = tmp_path_factory.mktemp("studio")
    (folder / "lynx.toml").touch()
    (folder / "host.png").write_bytes(astronaut().read_bytes())
    manifest = folder / "trial.yaml"
    manifest.write_text(MANIFEST)
    with faces.faces_registered():
        read = lynx_engine.read_manifest(manifest)
        settings = load_settings(manifest)
        plan = lynx_engine.plan_renders(read, lynx_engine.gather_facts(read, settings))
        summary = render(plan, settings=settings, in_process=True)
        assert (summary.rendered, summary.exit_code) == (11, ExitCode.OK)
        yield manifest


def compare(manifest: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["compare", str(manifest), *words])


def table(manifest: Path, *words: str) -> Any:
    done = compare(manifest, "--json", *words)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def folder_of(manifest: Path) -> Path:
    return manifest.parent / "outputs" / "trial"


def rows_of(manifest: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    rows = pl.read_parquet(folder_of(manifest) / FILE).to_dicts()
    return {(r["variant"], r["prompt_name"], r["seed"]): r for r in rows}


def test_known_faces_score_as_who_they_are_and_noise_shows_none(studio: Path) -> None:
    found = table(studio)
    rows = rows_of(studio)
    assert len(rows) == 11
    same, other, nobody = (rows["faces", name, 0] for name in ("same", "other", "nobody"))
    assert same["dlib"] > 0.7
    assert other["dlib"] < 0.4
    assert (same["face_share"], other["face_share"], nobody["face_share"]) == (1.0, 1.0, 0.0)
    assert nobody["dlib"] is None
    assert {rows[v, p, s]["dlib"] for v, p, s in rows if v != "faces"} == {None}
    assert all(row["sharpness"] > 0 and row["motion"] > 0 for row in rows.values())
    lines = {line["variant"]: line for line in found["lines"]}
    assert list(lines) == ["tiny", "tiny_lite", "faces"]
    assert [lines["tiny"][name] for name in ("subjects", "prompts", "clips")] == [1, 2, 4]
    assert lines["tiny"]["estimates"]["dlib"] is None
    mean = lines["faces"]["estimates"]["dlib"]
    assert (mean["cells"], mean["mean"]) == (2, pytest.approx((same["dlib"] + other["dlib"]) / 2))
    assert mean["low"] is None


def test_the_table_says_what_is_missing_and_who_measured(studio: Path) -> None:
    done = compare(studio)
    assert done.exit_code == 0
    head = next(line for line in done.stdout.splitlines() if "variant" in line)
    measured = "facexlib insightface dlib motion sharpness face share"
    assert " ".join(head.split()) == f"variant subj x prm {measured}"
    assert "facexlib: not measured:" in done.stdout
    assert "dlib: likeness by dlib" in done.stdout
    assert "calibration: 0.4: distance 0.6" in done.stdout
    assert "faces lacks host x walk, host x talk." in done.stderr
    assert "tiny lacks host x same" in done.stderr
    assert "1 clip shows no face (faces)" in done.stderr


def test_a_second_comparison_decodes_nothing(studio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = table(studio)

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was decoded again")

    monkeypatch.setattr("lynx_engine.comparison.measuring.read_frames", refuse)
    assert table(studio) == first


def test_another_recogniser_or_a_damaged_table_is_measured_anew(studio: Path) -> None:
    before = table(studio)
    kept = folder_of(studio) / FILE
    whole = kept.read_bytes()
    random = Random(3)
    for _ in range(20):
        bit = random.randrange(len(whole) * 8)
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        kept.write_bytes(flipped)
        assert read_rows(kept) in ([], pl.read_parquet(whole).to_dicts())
    pl.read_parquet(whole).with_columns(dlib=pl.lit(0.99)).write_parquet(kept)
    assert table(studio) == before
    assert rows_of(studio)["faces", "other", 0]["dlib"] < 0.4


def test_the_score_of_a_recogniser_that_is_gone_is_not_shown_as_anothers(
    studio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(studio)
    monkeypatch.setattr(
        "lynx_engine.comparison.measuring.find_judges", lambda _: [Judge("dlib", None, "gone")]
    )
    found = table(studio)
    assert [line["estimates"]["dlib"] for line in found["lines"]] == [None] * 3
    assert found["columns"][0]["footnote"] == "gone"


def test_a_withdrawn_subject_is_not_looked_at(studio: Path) -> None:
    settings = load_settings(studio)
    withdraw(settings, "host")
    try:
        done = compare(studio)
    finally:
        restore(settings, "host")
    assert isinstance(done.exception, RefusedError)
    assert "subject 'host' withdrew consent" in str(done.exception)


def test_a_clip_that_is_not_the_recorded_one_does_not_count(studio: Path) -> None:
    clip = next((folder_of(studio) / "clips").glob("*walk*s1-tiny-*.mp4"))
    whole = clip.read_bytes()
    clip.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        done = compare(studio)
    finally:
        clip.write_bytes(whole)
    assert done.exit_code == ExitCode.DAMAGED
    assert f"{clip}: is not the clip that was recorded" in done.stderr


def test_only_narrows_the_table(studio: Path) -> None:
    assert [x["variant"] for x in table(studio, "--only", "variant=tiny")["lines"]] == ["tiny"]


def test_the_page_runs_no_script_and_loads_nothing(studio: Path) -> None:
    table(studio)
    page = (folder_of(studio) / "compare.html").read_text(encoding="utf-8")
    assert "default-src 'none'; style-src 'sha256-" in page
    assert "<script" not in page
    assert "http:" not in page
    assert "src=" not in page.replace("-src", "")


def test_markup_in_names_and_footnotes_is_text() -> None:
    hostile = "<script>alert(1)</script>\u202e"
    clips = [ScoredClip("j", hostile, hostile, "p", 1, {"x": 0.5})]
    columns: Sequence[Column] = [Column("x", hostile, hostile)]
    page = comparison_page.compare_page(hostile, compare_variants(clips, [hostile], columns))
    assert "<script" not in page
    assert "\u202e" not in page
    assert page.count("&lt;script&gt;") >= 4
