"""From no certificate to a signed clip and its row, with the installed command."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from lynx_engine.provenance.own_chain import make_own_chain
from tests.support.workspaces import Workspace

MANIFEST = (
    "campaign: signed",
    "defaults: {variant: sleeper}",
    "rows:",
    '  - {text: "Waves.", seed: 1}',
    '  - {text: "Waves.", seed: 2}',
)


def test_test_chain_signs_a_campaign_and_its_clips_read_as_trusted(tmp_path: Path) -> None:
    studio = Workspace(tmp_path)
    config = studio.write("lynx.toml", "")
    manifest = studio.write("signed.yaml", MANIFEST)
    none = studio.run("credentials", "check")
    assert none.returncode == 2
    assert "`lynx-engine credentials init` makes" in none.stderr
    made = studio.run("credentials", "init")
    assert made.returncode == 0, made.stderr
    assert "trusted here only" in made.stdout
    assert stat.S_IMODE((tmp_path / "credentials").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "credentials/key.pem").stat().st_mode) == 0o600
    again = studio.run("credentials", "init")
    assert (again.returncode, "no key is overwritten" in again.stderr) == (2, True)
    line = next(line.strip() for line in made.stdout.splitlines() if line.startswith("  "))
    assert line == 'credentials = "credentials"'
    config.write_text(f"{line}\n")
    checked = studio.json("credentials", "check")
    assert (checked["probe"], checked["algorithm"], checked["warnings"]) == ("trusted", "es256", [])

    done = studio.run("render", manifest, "--in-process")
    assert done.returncode == 0, done.stderr
    log = {row["clip"]: row for row in pl.read_parquet(studio.parts("signed")[0]).to_dicts()}
    clips = studio.clips("signed")
    assert len(clips) == 2
    for clip in clips:
        told = studio.json("credentials", "read", clip)
        row = log[clip.name]
        assert told["state"] == "trusted"
        assert told["says"]["job_id"] == row["job_id"]
        assert (told["identifier"], told["signer"]) == (row["credential"], row["signer"])
        assert row["signer"] == checked["signer"]
        assert "c2pa" in row["labels_applied"].split(",")

    data = bytearray(clips[0].read_bytes())
    data[-10] ^= 1
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(data)
    broken = studio.run("credentials", "read", copy, "--json")
    assert broken.returncode == 4
    told = json.loads(broken.stdout)
    assert (told["state"], told["problems"]) == (
        "invalid",
        ["the clip was changed after it was signed"],
    )
    assert (
        json.loads(studio.run("credentials", "read", copy, "--json").stdout)["state"] == "invalid"
    )
    missing = studio.run("credentials", "read", "no.mp4")
    assert (missing.returncode, "No such file" in missing.stderr) == (2, True)


def test_wrong_key_refuses_a_run_before_anything_starts(tmp_path: Path) -> None:
    studio = Workspace(tmp_path)
    studio.write("lynx.toml", 'credentials = "one"\n')
    manifest = studio.write("signed.yaml", MANIFEST)
    for name in ("one", "two"):
        make_own_chain(tmp_path / name, datetime.now(UTC))
    (tmp_path / "two/key.pem").rename(tmp_path / "one/key.pem")
    done = studio.run("render", manifest)
    assert done.returncode == 2
    assert "this key does not belong to the first certificate" in done.stderr
    assert not (tmp_path / "outputs").exists()
