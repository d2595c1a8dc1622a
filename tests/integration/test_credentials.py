"""Signing real clips and reading them back; the C2PA library's own reader is the oracle."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import c2pa
import pytest

from lynx_engine.cli.app import app
from lynx_engine.digest import digest_file
from lynx_engine.errors import ExitCode, PausedError, RefusedError
from lynx_engine.jobs import RenderJob
from lynx_engine.media.video import decode_clip, find_ffmpeg
from lynx_engine.orders import ClipDraft
from lynx_engine.pool import InProcessPool
from lynx_engine.provenance.credentials import (
    PROBE,
    CredentialKind,
    Credentials,
    SigningError,
    read_credential,
)
from lynx_engine.provenance.store import read_parts
from lynx_engine.settings import Settings
from lynx_engine.signing import ClipSigner
from tests.faults.disk import CAMPAIGN, HonestPool, run_trial
from tests.support.jobs import make_job, make_sleeper_job, plan_of, planned
from tests.support.signing import boxes, loaded, real_draft, signing_settings
from tests.support.workspaces import run_here

Figure = Callable[[str], None]

C2PA_ID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


def signed_clip(settings: Settings, job: RenderJob | None = None) -> ClipDraft:
    job = job or make_sleeper_job("")
    draft = real_draft(settings.workspace / "drafts", job)
    return ClipSigner(loaded(settings), run_id="r1").signed(planned(job), draft)


def reads_as(path: Path, root: Path) -> str | None:
    """Return what the library's own reader says of a clip, trusting one root."""
    trust = {"user_anchors": root.read_text()}
    verify = {"verify_trust": True, "remote_manifest_fetch": False}
    with (
        c2pa.Context.from_dict({"trust": trust, "verify": verify}) as context,
        path.open("rb") as file,
        c2pa.Reader("video/mp4", file, context=context) as reader,
    ):
        return reader.get_validation_state()


def test_signed_clip_is_trusted_shows_the_same_frames_and_says_what_made_it(
    tmp_path: Path, figure: Figure
) -> None:
    settings = signing_settings(tmp_path)
    job = make_sleeper_job("")
    before = real_draft(tmp_path / "drafts", job)
    plain = before.path.read_bytes()
    signer = ClipSigner(loaded(settings), run_id="r1")
    started = time.perf_counter()
    draft = signer.signed(planned(job, attempt=3), before)
    took_ms = 1000 * (time.perf_counter() - started)
    assert draft.path == before.path
    assert list(draft.path.parent.iterdir()) == [draft.path]
    assert reads_as(draft.path, tmp_path / "certificates/root.pem") == "Trusted"
    assert decode_clip(draft.path).frames_digest == before.clip.frames_digest
    assert draft.clip.digest == digest_file(draft.path) != before.clip.digest
    assert draft.clip.bytes == draft.path.stat().st_size
    state = read_credential(draft.path, settings=settings)
    assert (state.state, state.problems) == (CredentialKind.TRUSTED, ())
    assert draft.marks.labels == ("c2pa",)
    assert (draft.marks.credential, draft.marks.signer) == (state.identifier, state.signer)
    assert state.says == {
        "software": "lynx_engine 0.1.0",
        "source": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
        "job_id": job.job_id,
        "run_id": "r1",
        "attempt": 3,
        "variant": "sleeper",
        "weights_fingerprint": job.weights_fingerprint,
        "weights": {"base": "w" * 64},
        "loras": [],
    }
    added = draft.clip.bytes - len(plain)
    figure(f"CREDENTIAL sign_and_check_ms={took_ms:.0f} added_bytes={added}")
    assert added < 5_000


def test_read_prints_each_weight_file_on_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = signing_settings(tmp_path)
    draft = signed_clip(settings, make_job())
    files = read_credential(draft.path, settings=settings).says["weights"]
    assert isinstance(files, dict)
    assert files
    told = run_here(app, tmp_path, monkeypatch, capsys, "credentials", "read", str(draft.path))
    lines = [line.split() for line in told.splitlines()]
    for file, digest in files.items():
        assert [file, digest] in lines
    assert "{" not in told


def test_signing_alone_takes_milliseconds(tmp_path: Path, figure: Figure) -> None:
    settings = signing_settings(tmp_path)
    credentials = loaded(settings)
    draft = real_draft(tmp_path / "drafts", make_sleeper_job(""))
    taken: list[float] = []
    for number in range(5):
        started = time.perf_counter()
        credentials.sign(draft.path, tmp_path / f"{number}.mp4", PROBE)
        taken.append(1000 * (time.perf_counter() - started))
    figure(f"CREDENTIAL sign_ms={min(taken):.1f} to {max(taken):.1f} (with fsync and reading back)")
    # Two signatures of one clip differ; only frames tell that runs made the same.
    assert digest_file(tmp_path / "0.mp4") != digest_file(tmp_path / "1.mp4")


def test_credential_holds_nothing_of_a_person(tmp_path: Path) -> None:
    photo = hashlib.sha256(b"a photo").hexdigest()
    job = make_sleeper_job(
        "Jane walks in Utrecht.",
        campaign="secret-campaign",
        subject="jane-doe",
        prompt_name="utrecht",
        where="jane.yaml:3",
        photos=(Path("photos/jane.png"),),
        consent="contract",
        subject_digest=photo,
    )
    draft = signed_clip(signing_settings(tmp_path / "jane-studio"), job)
    data = draft.path.read_bytes()
    box = boxes(data)["uuid"]
    credential = data[box.start : box.stop]
    assert job.job_id.encode() in credential
    told = credential.lower()
    words = ("jane", "doe", "utrecht", "walk", "secret", "campaign", "contract", "photo", ".mp4")
    for word in (*words, photo, photo[:12], job.clip_name, draft.path.stem):
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            assert word.lower().encode(encoding) not in told, word
    assert bytes.fromhex(photo) not in credential


def test_changed_byte_shows_unless_it_changes_neither_picture_nor_statement(
    tmp_path: Path, figure: Figure
) -> None:
    settings = signing_settings(tmp_path)
    draft = signed_clip(settings)
    data = draft.path.read_bytes()
    whole = read_credential(draft.path, settings=settings)
    inside = boxes(data)
    assert C2PA_ID in data
    changed = tmp_path / "changed.mp4"
    found: Counter[tuple[str, str]] = Counter()
    # Odd and prime: it meets every box, and another bit each time.
    for at in range(0, len(data), 19):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at // 19 % 8)
        changed.write_bytes(flipped)
        state = read_credential(changed, settings=settings)
        box = next(kind for kind, place in inside.items() if at in place)
        found[box, state.state.value] += 1
        if state.state in {CredentialKind.TRUSTED, CredentialKind.VALID}:
            # C2PA leaves the type box and the padding of its own unsigned.
            assert box in {"ftyp", "uuid"}, (box, at)
            assert replace(state, state=whole.state) == whole
            if box == "ftyp":
                assert decode_clip(changed).frames_digest == draft.clip.frames_digest
        elif state.state is CredentialKind.NONE:
            assert C2PA_ID not in flipped  # its very name
        else:
            assert state.problems
        assert digest_file(changed) != draft.clip.digest
    figure("CREDENTIAL flips " + " ".join(f"{b}.{s}={n}" for (b, s), n in sorted(found.items())))
    assert found["mdat", "invalid"] > 30
    assert found["uuid", "invalid"] > 80
    assert {box for box, _ in found} >= {"ftyp", "uuid", "moov", "mdat"}


def test_remux_drops_the_credential_and_keeps_the_frames(tmp_path: Path) -> None:
    settings = signing_settings(tmp_path)
    draft = signed_clip(settings)
    copy = tmp_path / "copy.mp4"
    command = [find_ffmpeg(), "-v", "error", "-i", str(draft.path), "-c", "copy", str(copy)]
    subprocess.run(command, check=True)
    assert read_credential(copy, settings=settings).state is CredentialKind.NONE
    assert decode_clip(copy).frames_digest == draft.clip.frames_digest


@pytest.mark.parametrize(
    "content",
    [b"", b"no clip at all", b"\0" * 4096, bytes(range(256)) * 16],
    ids=["empty", "text", "zeros", "bytes"],
)
def test_file_that_is_no_clip_has_no_credential(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert read_credential(path, settings=Settings(workspace=tmp_path)).state.value == "none"


def test_stranger_is_valid_but_not_trusted_and_only_roots_of_the_settings_count(
    tmp_path: Path,
) -> None:
    draft = signed_clip(signing_settings(tmp_path / "theirs"))
    ours = signing_settings(tmp_path / "ours")
    for settings in (ours, Settings(workspace=tmp_path)):
        state = read_credential(draft.path, settings=settings)
        assert (state.state, state.problems) == (CredentialKind.VALID, ())
        assert state.signer == draft.marks.signer


def test_credential_without_time_stamp_turns_invalid_when_its_certificate_ends(
    tmp_path: Path,
) -> None:
    settings = signing_settings(tmp_path, days=2.5 / 86400)
    credentials = loaded(settings)
    draft = signed_clip(settings)
    assert read_credential(draft.path, settings=settings).state is CredentialKind.TRUSTED
    # The library lets the second pass in which it ends.
    left = credentials.chain.not_after - datetime.now(UTC)
    time.sleep(max(left.total_seconds(), 0) + 1.3)
    state = read_credential(draft.path, settings=settings)
    assert state.state is CredentialKind.INVALID
    assert any("certificate has expired" in problem for problem in state.problems)
    # Nor can another clip be signed with it in the night that it ends.
    fresh = real_draft(tmp_path / "more", make_sleeper_job("", seed=2))
    before = fresh.path.read_bytes()
    signer = ClipSigner(credentials, run_id="r2")
    with pytest.raises(PausedError, match="not published unsigned: the signing certificate in "):
        signer.signed(planned(make_sleeper_job("", seed=2)), fresh)
    assert fresh.path.read_bytes() == before
    assert list(fresh.path.parent.iterdir()) == [fresh.path]
    with pytest.raises(RefusedError, match="expired on"):
        Credentials.load(settings)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_half_clip_is_never_signed(tmp_path: Path, share: float) -> None:
    job = make_sleeper_job("")
    draft = real_draft(tmp_path / "drafts", job)
    data = draft.path.read_bytes()
    half = data[: int(len(data) * share)]
    draft.path.write_bytes(half)
    signer = ClipSigner(loaded(signing_settings(tmp_path)), run_id="r1")
    with pytest.raises(PausedError, match="not the one that was checked"):
        signer.signed(planned(job), draft)
    # Also where its digest was taken of the half: the frames are counted once more.
    facts = replace(draft.clip, digest=digest_file(draft.path))
    with pytest.raises(PausedError, match="could not be signed"):
        signer.signed(planned(job), replace(draft, clip=facts))
    assert draft.path.read_bytes() == half
    assert list(draft.path.parent.iterdir()) == [draft.path]


def test_wrong_key_never_signs(tmp_path: Path) -> None:
    """Also one that was swapped in after it was read: what a reader refuses is no signature."""
    settings = signing_settings(tmp_path)
    other = loaded(signing_settings(tmp_path / "other"))
    credentials = loaded(settings)
    mixed = replace(credentials, chain=replace(credentials.chain, key_pem=other.chain.key_pem))
    draft = real_draft(tmp_path / "drafts", make_sleeper_job(""))
    with pytest.raises(SigningError, match="does not fit what the credential says"):
        mixed.sign(draft.path, tmp_path / "signed.mp4", PROBE)
    assert not (tmp_path / "signed.mp4").exists()
    with pytest.raises(SigningError):
        mixed.probe()


def test_reading_asks_no_network(tmp_path: Path) -> None:
    """A clip may name an address for its credential; nobody is called."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/manifest"
        settings = signing_settings(tmp_path)
        chain = loaded(settings).chain
        draft = real_draft(tmp_path / "drafts", make_sleeper_job(""))
        away = io.BytesIO()
        info = c2pa.C2paSignerInfo("es256", chain.chain_pem, chain.key_pem, None)
        with (
            c2pa.Context.from_dict({"verify": {"verify_after_sign": False}}) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder({"claim_generator_info": [{"name": "x"}]}, context) as builder,
            draft.path.open("rb") as file,
        ):
            builder.set_no_embed()
            builder.set_remote_url(address)
            builder.sign(signer, "video/mp4", file, away)
        assert address.encode() in away.getvalue()
        draft.path.write_bytes(away.getvalue())
        state = read_credential(draft.path, settings=settings)
        assert state.state in {CredentialKind.NONE, CredentialKind.INVALID}
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_time_stamp_authority_that_does_not_answer_refuses_and_keeps_its_password(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = f"http://somebody:geheim@127.0.0.1:{port}/tsa"
    settings = signing_settings(tmp_path, timestamps=address)
    pool = HonestPool()
    with pytest.raises(RefusedError, match="no time stamp can be had from") as refused:
        run_trial(settings, pool, plan_of(make_job()))
    assert f"127.0.0.1:{port}" in str(refused.value)
    assert "geheim" not in str(refused.value)
    assert pool.seeds == []


def test_campaign_publishes_signed_clips_only_and_records_who_signed(tmp_path: Path) -> None:
    settings = signing_settings(tmp_path)
    jobs = [make_sleeper_job("", seed=seed) for seed in (1, 2)]
    summary = run_trial(settings, InProcessPool(settings, "cpu"), plan_of(*jobs))
    assert (summary.exit_code, summary.rendered) == (ExitCode.OK, 2)
    folder = settings.campaign_dir(CAMPAIGN)
    log = read_parts(folder / "provenance")
    for row in log.iter_rows(named=True):
        clip = folder / "clips" / row["clip"]
        state = read_credential(clip, settings=settings)
        assert state.state is CredentialKind.TRUSTED
        assert state.says["job_id"] == row["job_id"]
        assert state.says["run_id"] == row["run_id"]
        assert (row["credential"], row["signer"]) == (state.identifier, state.signer)
        assert "c2pa" in row["labels_applied"].split(",")
        assert row["clip_digest"] == digest_file(clip)
        assert row["frames_digest"] == decode_clip(clip).frames_digest
    # Whether it is signed changes no pixel and no id.
    plain = Settings(workspace=tmp_path / "plain")
    run_trial(plain, InProcessPool(plain, "cpu"), plan_of(*jobs))
    unsigned = read_parts(plain.campaign_dir(CAMPAIGN) / "provenance")
    columns = ["job_id", "clip", "frames_digest"]
    assert sorted(unsigned.select(columns).rows()) == sorted(log.select(columns).rows())
    assert set(unsigned["labels_applied"]).isdisjoint({"c2pa", "tags,c2pa"})


def test_campaign_with_certificates_that_do_not_hold_is_refused_before_any_row(
    tmp_path: Path,
) -> None:
    settings = signing_settings(tmp_path)
    (tmp_path / "certificates/key.pem").chmod(0o640)
    pool = HonestPool()
    with pytest.raises(RefusedError, match="others may read this key") as refused:
        run_trial(settings, pool, plan_of(make_job()))
    assert refused.value.exit_code == ExitCode.REFUSED
    assert (pool.seeds, pool.loads) == ([], [])


def test_nothing_is_loaded_where_clips_are_not_signed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from lynx_engine.signing import open_credentials; import flows.run, lynx_engine.campaign\n"
        "from lynx_engine.settings import Settings\n"
        f"print(open_credentials(Settings(workspace=Path({str(tmp_path)!r}))))\n"
        "print(json.dumps(sorted({'c2pa', 'cryptography.x509'} & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import json\n" + code], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first == "None"
    assert json.loads(second) == []
