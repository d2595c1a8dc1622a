"""Consent while a campaign runs, and the register of withdrawals: real folders, real processes."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest

import lynx_engine
from flows.run import Silence, prepare_run, render
from lynx_engine.campaign import open_campaign
from lynx_engine.errors import DamagedError, ExitCode, RefusedError
from lynx_engine.identity.withdrawals import (
    copies_of,
    read_withdrawals,
    restore,
    withdraw,
    withdrawn,
)
from lynx_engine.jobs import PlannedJob, RenderJob
from lynx_engine.lock import lock_campaign
from lynx_engine.orders import RenderTask
from lynx_engine.outcomes import CampaignSummary
from lynx_engine.preflight import Preflight, face_keys
from lynx_engine.provenance.environment import keyed_digest, make_workspace_key
from lynx_engine.provenance.store import read_log
from lynx_engine.results import Failed, Rendered, RenderResult
from lynx_engine.settings import Settings, load_settings
from tests.support.jobs import astronaut, make_job, plan_of
from tests.support.pools import ScriptedPool, Watcher
from tests.support.workspaces import COMMAND

EVIDENCE = "contracts/signed-by-guest.pdf"
WITHDRAW = """
import sys
from pathlib import Path
from lynx_engine.identity.withdrawals import withdraw
from lynx_engine.settings import Settings
withdraw(Settings(workspace=Path(sys.argv[1])), sys.argv[2], photo_digests=sys.argv[3:])
"""


def from_another_process(folder: Path, subject: str, *photos: str) -> None:
    command = [sys.executable, "-c", WITHDRAW, str(folder), subject, *photos]
    subprocess.run(command, check=True, timeout=60)


def job(subject: str, seed: int, *, expires: date | None = None, photo: str = "") -> RenderJob:
    return make_job(
        subject=subject,
        seed=seed,
        photos=(astronaut(),),
        subject_digest=photo or f"digest of {subject}",
        consent="contract",
        consent_expires=expires,
    )


JOBS = tuple(job(name, seed) for seed, name in enumerate(("guest", "host", "guest", "host"), 1))


def run(
    folder: Path,
    pool: ScriptedPool,
    *jobs: RenderJob,
    today: date = date(2026, 11, 22),
    **settings: str,
) -> tuple[CampaignSummary, Watcher]:
    """Run the jobs in their order; every call of the pool's `on_render` may move `folder/today`."""
    found = Settings(workspace=folder, **settings)  # pyright: ignore[reportArgumentType]
    moved = folder / "today"
    moved.write_text(today.isoformat())
    faces = Preflight({key: np.zeros((5, 2), np.float32) for j in jobs for key in face_keys(j)}, {})
    watcher = Watcher()
    with (
        lock_campaign(found.campaign_dir("trial")) as lock,
        open_campaign(
            lock, plan_of(*jobs), pool, settings=found, faces=faces, observer=watcher,
            today=lambda: date.fromisoformat(moved.read_text()),
        ) as campaign,
    ):  # fmt: skip
        for turn in campaign.turns():
            campaign.render_row(turn)
        return campaign.summary(), watcher


def records(folder: Path) -> dict[int, tuple[str, str, str]]:
    log = read_log("trial", settings=Settings(workspace=folder))
    rows = log.select("seed", "status", "code", "consent").iter_rows()
    return {seed: (status, code, consent) for seed, status, code, consent in rows}


def test_a_consent_that_ends_on_the_way_stops_only_that_subjects_rows(tmp_path: Path) -> None:
    last = date(2026, 11, 22)
    jobs = [
        job(name, seed, expires=last if name == "guest" else None)
        for seed, name in enumerate(("guest", "host", "guest", "host"), 1)
    ]

    def midnight(_device: str, _task: RenderTask) -> None:
        (tmp_path / "today").write_text("2026-11-23")

    pool = ScriptedPool(on_render=midnight)
    summary, watcher = run(tmp_path, pool, *jobs, today=last)
    assert pool.seeds == [1, 2, 4]
    assert records(tmp_path)[3] == ("failed", "consent", "contract")
    assert [records(tmp_path)[seed][0] for seed in (1, 2, 4)] == ["rendered"] * 3
    assert (summary.rendered, summary.failed, summary.exit_code) == (3, 1, ExitCode.ROWS_FAILED)
    assert summary.blocked == {}
    assert summary.failures[jobs[2].clip_name] == (
        "consent: consent of subject 'guest' ended on 2026-11-22, while the campaign ran; renew it "
        "and write the new date in the manifest, or remove the subject."
    )
    assert len(watcher.results) == 4


def test_a_photo_is_not_embedded_once_its_consent_has_ended(tmp_path: Path) -> None:
    pool = ScriptedPool()
    summary, _ = run(tmp_path, pool, job("guest", 1, expires=date(2026, 11, 21)))
    assert (pool.faces, pool.seeds, summary.failed) == ([], [], 1)


def test_under_warn_the_row_goes_on_and_its_record_says_what_was_wanting(tmp_path: Path) -> None:
    expired = job("guest", 1, expires=date(2026, 11, 21))
    summary, _ = run(tmp_path, ScriptedPool(), expired, consent="warn")
    assert summary.rendered == 1
    assert records(tmp_path)[1] == ("rendered", "", "expired 2026-11-21 (warn)")


@pytest.mark.parametrize("setting", ["required", "warn", "off"])
def test_a_withdrawal_from_another_process_stops_the_rows_not_begun(
    tmp_path: Path, setting: str
) -> None:
    pool = ScriptedPool(
        on_render=lambda _, task: (
            from_another_process(tmp_path, "guest") if task.job.seed == 2 else None
        )
    )
    summary, _ = run(tmp_path, pool, *JOBS, consent=setting)
    assert pool.seeds == [1, 2, 4]
    assert records(tmp_path)[3][:2] == ("failed", "consent")
    assert (summary.rendered, summary.exit_code) == (3, ExitCode.ROWS_FAILED)
    assert "subject 'guest' withdrew consent on" in summary.failures[JOBS[2].clip_name]


def test_a_withdrawn_photo_stops_rows_of_every_name_it_has(tmp_path: Path) -> None:
    jobs = [job("guest", 1, photo="one"), job("alias", 2, photo="two,one"), job("host", 3)]
    from_another_process(tmp_path, "guest", "one")
    summary, _ = run(tmp_path, ScriptedPool(), *jobs)
    assert {seed: row[0] for seed, row in records(tmp_path).items()} == {
        1: "failed", 2: "failed", 3: "rendered",
    }  # fmt: skip
    assert summary.failed == 2


def test_a_register_damaged_on_the_way_pauses_the_campaign_and_charges_nobody(
    tmp_path: Path,
) -> None:

    def damage(_device: str, _task: RenderTask) -> None:
        (tmp_path / "lynx.withdrawals").write_bytes(b"?")

    pool = ScriptedPool(on_render=damage)
    summary, _ = run(tmp_path, pool, *JOBS)
    assert pool.seeds == [1]
    assert (summary.rendered, summary.failed, summary.exit_code) == (1, 0, ExitCode.PAUSED)
    assert "lynx.withdrawals" in summary.paused


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(workspace=tmp_path)


def test_a_withdrawal_survives_the_loss_of_outputs_and_of_either_copy(settings: Settings) -> None:
    entry = withdraw(settings, "guest", photo_digests=["one"])
    for copy in copies_of(settings):
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        kept = copy.read_bytes()
        copy.unlink()
        assert read_withdrawals(settings).entries == (entry,)
        copy.write_bytes(kept)


def test_without_the_state_folder_every_subject_is_refused_until_the_key_is_back(
    settings: Settings,
) -> None:
    withdraw(settings, "guest", photo_digests=["one"])
    kept = settings.workspace / "kept"
    settings.state_dir.rename(kept)
    key = make_workspace_key(settings.state_dir)  # as the next run makes it
    register = read_withdrawals(settings)
    assert "nobody can tell" in withdrawn(register, "host", ["two"], key)
    assert "nobody can tell" in withdrawn(register, "host", ["two"], None)
    assert "subject 'guest' withdrew" in withdrawn(register, "guest", ["two"], key)
    shutil.rmtree(settings.state_dir)
    kept.rename(settings.state_dir)
    key = make_workspace_key(settings.state_dir)
    assert withdrawn(read_withdrawals(settings), "host", ["two"], key) == ""
    assert "shows 'guest'" in withdrawn(read_withdrawals(settings), "host", ["one"], key)


def test_noting_a_withdrawal_again_keeps_its_day_and_every_photo(settings: Settings) -> None:
    first = withdraw(settings, "guest", photo_digests=["one"])
    key = make_workspace_key(settings.state_dir)
    second = withdraw(settings, "guest", keyed=[keyed_digest("two", key)])
    assert second.at == first.at
    assert set(second.photos) == {keyed_digest("one", key), keyed_digest("two", key)}
    assert len(read_withdrawals(settings).entries) == 1


def test_a_withdrawal_taken_back_leaves_the_others(settings: Settings) -> None:
    withdraw(settings, "guest")
    kept = withdraw(settings, "host")
    assert restore(settings, "GUEST")
    assert not restore(settings, "guest")
    assert read_withdrawals(settings).entries == (kept,)


def test_a_withdrawal_is_taken_back_and_noted_anew_where_the_state_folder_is_gone(
    settings: Settings,
) -> None:
    withdraw(settings, "host", photo_digests=["ab"])
    shutil.rmtree(settings.state_dir)
    assert restore(settings, "host")
    assert read_withdrawals(settings).entries == ()
    withdraw(settings, "host", photo_digests=["ab"])
    assert all(path.is_file() for path in copies_of(settings))


def test_an_older_copy_does_not_bring_a_withdrawal_back(settings: Settings) -> None:
    withdraw(settings, "guest")
    older = copies_of(settings)[1].read_bytes()
    restore(settings, "guest")
    copies_of(settings)[1].write_bytes(older)
    assert read_withdrawals(settings).entries == ()


def test_withdrawals_given_at_once_are_all_noted(settings: Settings) -> None:
    names = [f"guest-{number}" for number in range(12)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda name: withdraw(settings, name), names))
    assert {entry.subject for entry in read_withdrawals(settings).entries} == set(names)


@pytest.mark.parametrize("number", [0, 1])
def test_damage_of_either_copy_is_named_at_every_length_and_bit(
    settings: Settings, number: int
) -> None:
    withdraw(settings, "guest", photo_digests=["one", "two"])
    copy = copies_of(settings)[number]
    whole = copy.read_bytes()
    bits = Random(7).sample(range(len(whole) * 8), 300)
    flipped = (
        whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :]
        for bit in bits
    )
    for damaged in (*(whole[:length] for length in range(len(whole))), *flipped):
        copy.write_bytes(damaged)
        with pytest.raises(DamagedError, match="register of withdrawals is damaged") as caught:
            read_withdrawals(settings)
        assert [problem.where for problem in caught.value.problems] == [str(copy)]
    with pytest.raises(DamagedError):
        withdraw(settings, "host")
    copy.write_bytes(whole)
    assert len(read_withdrawals(settings).entries) == 1


@pytest.mark.parametrize("kind", ["folder", "link", "swapped"])
def test_what_is_no_register_is_named(settings: Settings, kind: str) -> None:
    withdraw(settings, "guest")
    first, second = copies_of(settings)
    other = Settings(workspace=settings.workspace / "other")
    other.workspace.mkdir()
    withdraw(other, "host")
    first.unlink()
    if kind == "folder":
        first.mkdir()
    elif kind == "link":
        first.symlink_to("nowhere")
    else:
        first.write_bytes(copies_of(other)[0].read_bytes())
    with pytest.raises(DamagedError) as caught:
        read_withdrawals(settings)
    (problem,) = caught.value.problems
    assert problem.where in {str(first), str(second)}


MANIFEST = f"""\
campaign: night
defaults: {{variant: tiny, steps: 1, frames: 5}}
subjects:
  guest: {{image: guest.png, consent: {{basis: contract, evidence: {EVIDENCE}}}}}
  host: {{image: host.png, consent: {{basis: public-domain}}}}
matrix: [{{prompt: [one, two], subject: [guest, host]}}]
prompts: {{one: A walk., two: A talk.}}
"""


@pytest.fixture
def studio(tmp_path: Path) -> Path:
    """Make a workspace with two subjects, whose photos differ."""
    photo = cv2.imread(str(astronaut()))
    assert photo is not None
    cv2.imwrite(str(tmp_path / "host.png"), photo)
    cv2.imwrite(str(tmp_path / "guest.png"), np.ascontiguousarray(photo[:, ::-1]))
    (tmp_path / "lynx.toml").touch()
    (tmp_path / "night.yaml").write_text(MANIFEST)
    return tmp_path / "night.yaml"


class _Withdrawing(Silence):
    """Lets another process withdraw a subject's consent when the first row has ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ended: list[str] = []

    def finished(self, planned: PlannedJob, result: RenderResult) -> None:
        assert isinstance(result, Rendered | Failed)
        self.ended.append(planned.job.subject)
        if len(self.ended) == 1:
            from_another_process(self._folder, planned.job.subject)


def test_withdrawn_in_a_real_campaign_the_other_subject_finishes(studio: Path) -> None:
    settings = load_settings(studio)
    manifest = lynx_engine.read_manifest(studio)
    plan = lynx_engine.plan_renders(manifest, lynx_engine.gather_facts(manifest, settings))
    observer = _Withdrawing(studio.parent)
    summary = render(plan, settings=settings, in_process=True, observer=observer)
    withdrew = observer.ended[0]
    other = {"guest": "host", "host": "guest"}[withdrew]
    log = read_log("night", settings=settings)
    ended = sorted(zip(log["subject"], log["status"], log["code"], strict=True))
    assert ended == sorted(
        [(withdrew, "rendered", ""), (withdrew, "failed", "consent")]
        + [(other, "rendered", "")] * 2
    )
    assert (summary.exit_code, len(summary.failures)) == (ExitCode.ROWS_FAILED, 1)
    # Now it is refused at plan; a schedule leaves out just these rows.
    with pytest.raises(RefusedError, match=f"subject '{withdrew}' withdrew consent"):
        lynx_engine.plan_renders(manifest, lynx_engine.gather_facts(manifest, settings))
    scheduled = prepare_run(studio, devices="cpu", cluster="", skip_bad_rows=True)
    assert {j.subject for j in scheduled.plan.done} == {other}
    assert (len(scheduled.plan.to_run), len(scheduled.plan.problems)) == (0, 1)
    # What the author wrote of the evidence stands in the manifest, and nowhere else.
    written = [p for p in studio.parent.rglob("*") if p.is_file() and p.suffix != ".yaml"]
    assert len(written) > 5
    assert not [p for p in written if EVIDENCE.encode() in p.read_bytes()]


def lynx(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(COMMAND), *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_forget_withdraws_by_name_and_photo_and_restore_takes_it_back(studio: Path) -> None:
    folder = studio.parent
    unknown = lynx(folder, "forget", "guest", "--withdraw")
    assert unknown.returncode == ExitCode.REFUSED, unknown
    withdrew = lynx(folder, "forget", "guest", "--withdraw", "--manifest", "night.yaml")
    assert withdrew.returncode == 0, withdrew
    assert "guest: consent is noted as withdrawn. Rows in flight end;" in withdrew.stdout
    # The same photo under a new name is still theirs.
    studio.write_text(MANIFEST.replace("guest", "alias").replace("alias.png", "guest.png"))
    refused = lynx(folder, "check", "night.yaml")
    assert refused.returncode == ExitCode.REFUSED
    assert "a photo of subject 'alias' shows 'guest'" in refused.stderr
    assert lynx(folder, "forget", "nobody", "--restore").returncode == ExitCode.REFUSED
    assert lynx(folder, "forget", "guest", "--restore").returncode == 0
    assert lynx(folder, "check", "night.yaml").returncode == 0
