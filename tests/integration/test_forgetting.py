"""What `forget` finds and leaves: other people, records, campaigns that render, damaged logs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from lynx_engine.errors import RefusedError
from lynx_engine.forgetting import find_kept, forget
from lynx_engine.identity.vault import open_vault
from lynx_engine.jobs import RenderJob
from lynx_engine.lock import lock_campaign
from lynx_engine.manifest.read import read_manifest
from lynx_engine.provenance.store import read_log
from lynx_engine.settings import Settings
from tests.faults.disk import CAMPAIGN, CHANGES, HonestPool, Operation, run_trial, watched
from tests.integration.test_faces import found_in, job_of
from tests.support.jobs import astronaut, make_job, plan_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(workspace=tmp_path)


def render(settings: Settings, *jobs: RenderJob) -> Path:
    """Render the jobs; return the campaign's folder."""
    summary = run_trial(settings, HonestPool(), plan_of(*jobs), faces=found_in(*jobs))
    assert summary.rendered == len(jobs)
    return settings.campaign_dir(CAMPAIGN)


def test_one_photo_under_two_names_is_forgotten_as_one_and_other_clips_stay(
    settings: Settings,
) -> None:
    jobs = [job_of(astronaut()), job_of(astronaut(), subject="guest", seed=2), make_job(seed=3)]
    folder = render(settings, *jobs)
    kept = find_kept(["guest"], settings, with_clips=True)
    assert [photo.names for photo in kept.photos] == [("guest", "host")]
    assert [clip.name for clip in kept.clips[CAMPAIGN]] == [jobs[1].clip_name]
    assert forget(kept, settings).sizes == {}
    assert open_vault(settings).kept() == ()
    left = sorted(path.name for path in (folder / "clips").iterdir())
    assert left == sorted(job.clip_name for job in (jobs[0], jobs[2]))
    assert read_log(CAMPAIGN, settings=settings).height == 3


def test_without_being_asked_no_clip_goes(settings: Settings) -> None:
    folder = render(settings, job_of(astronaut()))
    forget(find_kept(["host"], settings), settings)
    assert len(list((folder / "clips").iterdir())) == 1
    assert find_kept(["host"], settings).sizes == {}


def test_manifest_leads_to_a_photo_that_was_kept_under_another_name(
    settings: Settings, tmp_path: Path
) -> None:
    render(settings, job_of(astronaut(), subject="old"))
    lines = f"subjects: {{new: {{image: {astronaut().name}, synthetic: true}}}}"
    (tmp_path / astronaut().name).write_bytes(astronaut().read_bytes())
    (tmp_path / "m.yaml").write_text(
        f"campaign: other\n{lines}\ndefaults: {{variant: tiny}}\nprompts: {{walk: A walk.}}\n"
        "matrix:\n  - {subject: new, prompt: walk, seed: 1}\n"
    )
    manifest = read_manifest(tmp_path / "m.yaml")
    assert [p.names for p in find_kept(["new"], settings, manifest=manifest).photos] == [("old",)]


def test_contact_sheets_go_where_they_name_the_subject_and_stay_where_they_do_not(
    settings: Settings,
) -> None:
    render(settings, job_of(astronaut()))
    for campaign, shown in (("mine", "host"), ("theirs", "hostess"), ("torn", "")):
        folder = settings.outputs_dir / campaign
        folder.mkdir()
        (folder / "subjects.png").write_bytes(b"picture")
        if shown:
            (folder / "subjects.html").write_text(f"<h2>{shown}</h2>")
    found = find_kept(["host"], settings).sheets
    assert [f"{path.parent.name}/{path.name}" for path in found] == [
        "mine/subjects.png",
        "mine/subjects.html",
        "torn/subjects.png",
    ]


def test_campaign_that_renders_now_is_named_and_its_clips_are_left(settings: Settings) -> None:
    folder = render(settings, job_of(astronaut()))
    with lock_campaign(folder):
        kept = find_kept(["host"], settings, with_clips=True)
        left = forget(kept, settings)
    assert (kept.running, left.running) == ((CAMPAIGN,), (CAMPAIGN,))
    assert left.clips == kept.clips
    assert all(clip.exists() for clip in left.clips[CAMPAIGN])
    assert open_vault(settings).kept() == (), "what is kept of the face goes all the same"


def test_damaged_log_or_key_keeps_no_face_but_clips_that_cannot_be_told(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    folder = render(settings, job_of(astronaut()))
    vault = open_vault(settings)
    (part,) = (folder / "provenance").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-1])
    (settings.state_dir / "workspace.key").write_bytes(b"")
    kept = find_kept(["host"], settings, with_clips=True)
    left = forget(kept, settings)
    assert vault.kept() == ()
    assert [problem.where.startswith(str(part)) for problem in left.unread] == [True]
    assert len(list((folder / "clips").iterdir())) == 1
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


def test_sheet_that_shows_the_photo_under_another_name_goes_too(settings: Settings) -> None:
    render(settings, job_of(astronaut()), job_of(astronaut(), subject="guest", seed=2))
    folder = settings.outputs_dir / "theirs"
    folder.mkdir()
    (folder / "subjects.html").write_text("<h2>host</h2>")
    assert folder / "subjects.html" in find_kept(["guest"], settings).sheets


@pytest.mark.parametrize("name", ["", "none", "img", "-", "../host", "[/red]", "host\n"])
def test_word_that_names_nobody_is_refused_and_no_sheet_or_clip_is_found(
    settings: Settings, name: str
) -> None:
    folder = render(settings, job_of(astronaut()), make_job(seed=3))
    page = "<meta content=\"default-src 'none'\"><img alt=''> - [/red] <h2>host</h2> ../host host\n"
    (folder / "subjects.html").write_text(page)
    with pytest.raises(RefusedError, match="nothing was forgotten"):
        find_kept([name], settings, with_clips=True)


def test_name_counts_in_any_case_as_a_withdrawal_does(settings: Settings) -> None:
    folder = render(settings, job_of(astronaut(), subject="Host"))
    (settings.outputs_dir / "theirs").mkdir()
    sheet = settings.outputs_dir / "theirs" / "subjects.html"
    sheet.write_text("<h2>hOst</h2>")
    kept = find_kept(["host"], settings, with_clips=True)
    assert sheet in kept.sheets
    assert [photo.names for photo in kept.photos] == [("Host",)]
    assert forget(kept, settings).sizes == {}
    assert list((folder / "clips").iterdir()) == []
    assert open_vault(settings).kept() == ()


class Killed(BaseException):
    """Stands for a kill: from then on, nothing is changed."""


@dataclass
class DeathBetweenClipAndRecord:
    """A listener that lets the process die when a clip has its name, and its record not yet."""

    dead: bool = False

    def before(self, operation: Operation) -> None:
        target = operation.target
        self.dead |= operation.name == "rename" and target is not None and ".parquet" in target.name
        if self.dead and operation.name in CHANGES:
            raise Killed

    def after(self, operation: Operation) -> None:
        pass


def test_clips_and_drafts_that_a_killed_run_left_without_a_record_go_too(
    settings: Settings,
) -> None:
    folder = settings.campaign_dir(CAMPAIGN)
    folder.mkdir(parents=True)
    with pytest.raises(Killed), watched(folder, DeathBetweenClipAndRecord()):
        render(settings, job_of(astronaut()))
    (clip,) = (folder / "clips").iterdir()
    draft = folder / ".drafts" / "abc.mp4"
    draft.write_bytes(b"half a clip of a face")
    kept = find_kept(["host"], settings, with_clips=True)
    assert draft in kept.sizes
    assert forget(kept, settings).sizes == {}
    assert not draft.exists()
    assert not clip.exists()
    assert read_log(CAMPAIGN, settings=settings).height == 1, "the record stays"


def test_rows_of_a_variant_that_ignores_the_subject_lead_to_no_photo(settings: Settings) -> None:
    render(settings, make_job(subject="host"))
    assert find_kept(["host"], settings).digests == frozenset()
