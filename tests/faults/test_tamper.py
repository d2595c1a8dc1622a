"""One flipped byte in signed clips, their credentials or the log: `verify` names the very file."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flows.run import render
from lynx_engine import verification
from lynx_engine.digest import digest_file
from lynx_engine.manifest.read import read_manifest
from lynx_engine.media.video import find_ffmpeg
from lynx_engine.planning import plan_renders
from lynx_engine.publisher import Publisher
from lynx_engine.settings import Settings
from lynx_engine.survey import gather_facts
from lynx_engine.verification import Fault, Finding, look_at_clip, take_inventory, verify
from tests.faults.harness import describe, size
from tests.support.signing import boxes, signing_settings

Figure = Callable[[str], None]

CAMPAIGN = "trial"
CLIPS = 10
FLIPS = size(quick=200, full=5000)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tamper")
    signing_settings(folder)
    (folder / "lynx.toml").touch()
    rows = [f"  - {{text: t, seed: {n}}}" for n in range(CLIPS)]
    manifest = folder / "trial.yaml"
    for more in (rows[: CLIPS // 2], rows):
        lines = [f"campaign: {CAMPAIGN}", "defaults: {variant: sleeper}", "rows:", *more]
        manifest.write_text("\n".join(lines))
        read, settings = read_manifest(manifest), settings_of(folder)
        plan = plan_renders(read, gather_facts(read, settings))
        with pytest.MonkeyPatch.context() as patch:
            if more is rows:  # the second half stays in single parts
                patch.setattr(Publisher, "fold", lambda _: None)
            render(plan, settings=settings, devices="cpu", in_process=True)
    return folder


@pytest.fixture
def studio(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "studio"))


def settings_of(folder: Path) -> Settings:
    return Settings(workspace=folder, evaluator="none", credentials=Path("certificates"))


def files_of(studio: Path) -> tuple[list[Path], list[Path]]:
    """Return clips, and the log's parts and folded files."""
    folder = studio / "outputs" / CAMPAIGN
    return sorted((folder / "clips").glob("*.mp4")), sorted(
        (folder / "provenance").glob("*.parquet")
    )


def reported(studio: Path) -> set[str]:
    settings = settings_of(studio)
    (state,) = verify([take_inventory(CAMPAIGN, settings)], settings)
    return {damage.path for damage in state.damage}


def flip_byte(path: Path, dice: random.Random, *, in_credential: bool = False) -> bytes:
    """Change one byte at a random place; return what the file held."""
    before = path.read_bytes()
    data = bytearray(before)
    places = boxes(before)["uuid"] if in_credential else range(len(data))
    data[dice.choice(places)] ^= dice.randrange(1, 256)
    path.write_bytes(data)
    return before


def count_reported(studio: Path, flips: int, dice: random.Random) -> tuple[int, int]:
    """Flip a byte in every file of a kind at once, again and again; count what is reported.

    A flip in one file cannot show another's, as a report names the file; what no readable record
    names is no clip to verify, so clips and log take turns.
    """
    done = found = 0
    clips, log = files_of(studio)
    while done < flips:
        for kind, in_credential in ((clips, False), (log, False), (clips, True)):
            chosen = kind[: flips - done]
            before = {p: flip_byte(p, dice, in_credential=in_credential) for p in chosen}
            found += len(reported(studio) & {str(path) for path in chosen})
            done += len(chosen)
            for path, data in before.items():
                path.write_bytes(data)
    return done, found


def test_every_flipped_byte_is_reported(studio: Path, figure: Figure) -> None:
    assert reported(studio) == set()
    flips, found = count_reported(studio, FLIPS, random.Random("tamper"))
    figure(describe("tamper", flips=flips, reported=found))
    assert (flips, found) == (FLIPS, FLIPS)
    assert reported(studio) == set(), "and nothing else was changed"


def test_flip_in_one_file_reports_this_file_alone(studio: Path) -> None:
    dice = random.Random("alone")
    clips, log = files_of(studio)
    assert len(log) == 1 + CLIPS // 2
    for path in (clips[3], log[0], log[-1]):
        before = flip_byte(path, dice)
        assert reported(studio) == {str(path)}
        path.write_bytes(before)


def test_credential_that_is_another_one_or_gone_is_damage(studio: Path) -> None:
    settings = settings_of(studio)
    inventory = take_inventory(CAMPAIGN, settings)
    name, record = next(iter(inventory.clips.items()))
    assert {"tags", "c2pa"} <= set(record["labels_applied"].split(","))

    def fault(**changes: object) -> tuple[Fault, str]:
        other = replace(inventory, clips={name: {**record, **changes}})
        damage = look_at_clip(other, name, settings=settings, deep=False).damage
        assert damage is not None
        return damage.fault, damage.text

    found, text = fault(credential="urn:c2pa:another")
    assert found is Fault.CREDENTIAL
    assert "urn:c2pa:another was recorded" in text
    # A remux drops the credential; the record of a forger knows the new digest.
    path = inventory.folder / "clips" / name
    plain = studio / "plain.mp4"
    command = [find_ffmpeg(), "-v", "error", "-i", str(path), "-c", "copy"]
    subprocess.run([*command, "-movflags", "use_metadata_tags", str(plain)], check=True)
    path.write_bytes(plain.read_bytes())
    changes = {"clip_bytes": plain.stat().st_size, "clip_digest": digest_file(plain)}
    assert fault(**changes) == (
        Fault.CREDENTIAL,
        "has no signed credential, and one was recorded.",
    )


def test_flipped_byte_of_the_index_is_reported_or_changes_nothing(studio: Path) -> None:
    dice = random.Random("index")
    index = studio / "outputs" / CAMPAIGN / "provenance/index"
    for _ in range(size(quick=10, full=300)):
        before = flip_byte(index, dice)
        inventory = take_inventory(CAMPAIGN, settings_of(studio))
        assert inventory.damage or set(inventory.clips) == {c.name for c in files_of(studio)[0]}
        assert inventory.records == CLIPS
        index.write_bytes(before)


def test_mutant_without_the_digests_reports_no_clip(
    studio: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_recorded(path: Path) -> str:
        inventory = take_inventory(CAMPAIGN, settings_of(studio))
        return str(inventory.clips[path.name]["clip_digest"])

    clips, _ = files_of(studio)
    flip_byte(clips[0], random.Random("mutant"))
    assert reported(studio) == {str(clips[0])}
    monkeypatch.setattr(verification, "digest_file", as_recorded)
    # Tags and a signature are evidence of their own.
    monkeypatch.setattr(verification, "_other_tags", lambda *_: "")
    monkeypatch.setattr(verification, "_look_at_credential", lambda *_: Finding())
    assert reported(studio) == set()
    figure("MUTANT tamper red")


def test_clips_are_verified_all_the_same_when_the_roots_are_gone(studio: Path) -> None:
    shutil.rmtree(studio / "certificates")
    settings = settings_of(studio)
    inventory = take_inventory(CAMPAIGN, settings)
    (told,) = verify([inventory], settings)
    assert told.damage == ()
    (remark,) = told.remarks
    assert "nobody is trusted as signer" in remark
    assert "certificates" in remark
    clip = next((studio / "outputs" / CAMPAIGN / "clips").iterdir())
    clip.write_bytes(clip.read_bytes()[:-1] + b"\0")
    (told,) = verify([inventory], settings)
    assert [damage.fault for damage in told.damage] == [Fault.BYTES]
