"""What goes wrong while a clip is signed: it is never damaged, empty or published unsigned.

The oracles are the C2PA library's own reader, and frames that were never signed.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import c2pa
import pytest

from lynx_engine.errors import ExitCode, PausedError
from lynx_engine.pool import InProcessPool
from lynx_engine.provenance.certificates import SigningChain
from lynx_engine.provenance.credentials import (
    PROBE,
    Claim,
    CredentialKind,
    Credentials,
    Signature,
    read_credential,
)
from lynx_engine.provenance.store import read_parts
from lynx_engine.settings import Settings, load_settings
from lynx_engine.shapes import FrameSize
from lynx_engine.signing import ClipSigner
from tests.faults.disk import CAMPAIGN, Fault, Operation, run_trial, watched
from tests.faults.harness import Night, audit, describe, orphans_after, size
from tests.support.jobs import make_sleeper_job, plan_of, planned
from tests.support.signing import loaded, real_draft, signing_settings

Figure = Callable[[str], None]


@contextmanager
def largest_file(size_bytes: int) -> Generator[None]:
    """Have the system refuse to let any file of this process grow further."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def unsigned(folder: Path, settings: Settings) -> list[str]:
    """Return the published clips that are not signed by us."""
    clips = (folder / "clips").iterdir()
    return [
        clip.name
        for clip in clips
        if read_credential(clip, settings=settings).state is not CredentialKind.TRUSTED
    ]


def test_disk_that_is_full_for_the_signed_copy_pauses_and_the_next_run_publishes_it(
    tmp_path: Path, figure: Figure
) -> None:
    """The copy is some 3 kB larger than the clip: the limit lies in between."""
    settings = signing_settings(tmp_path)
    big = {"size": FrameSize(128, 128), "frames": 9, "crf": 1}
    jobs = [make_sleeper_job("", seed=seed, **big) for seed in (1, 2)]
    room = max(real_draft(tmp_path / "sizes", job).clip.bytes for job in jobs) + 1_000
    folder = settings.campaign_dir(CAMPAIGN)
    with largest_file(room):
        first = run_trial(settings, InProcessPool(settings, "cpu"), plan_of(*jobs))
    assert (first.exit_code, first.rendered, first.failed) == (ExitCode.PAUSED, 0, 0)
    assert "could not be signed, and is not published unsigned" in first.paused
    assert os.strerror(errno.EFBIG) in first.paused
    assert list((folder / "clips").iterdir()) == []
    assert read_parts(folder / "provenance").is_empty(), "no row was charged with it"
    assert list((folder / ".drafts").iterdir()) == []
    last = run_trial(settings, InProcessPool(settings, "cpu"), plan_of(*jobs))
    assert (last.exit_code, last.rendered) == (ExitCode.OK, 2)
    assert unsigned(folder, settings) == []
    figure(describe("sign-disk-full", lost=0, unsigned=0, temps=0))


class InTheCopy(Fault):
    """Refuses operations on signed copies only."""

    def before(self, operation: Operation) -> None:
        if operation.path.name.endswith("-signed.mp4"):
            super().before(operation)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_disk_that_refuses_any_operation_on_the_signed_copy_leaves_the_draft_as_it_was(
    tmp_path: Path, figure: Figure, number: int
) -> None:
    job = make_sleeper_job("")
    signer = ClipSigner(loaded(signing_settings(tmp_path)), run_id="r1")
    refused = 0
    for at in range(1, 50):
        draft = real_draft(tmp_path / str(at), job)
        before = draft.path.read_bytes()
        fault = InTheCopy(number, at)
        with watched(tmp_path, fault):
            try:
                signer.signed(planned(job), draft)
                told = ""
            except PausedError as error:
                told = str(error)
        if fault.refused is None:
            break
        assert os.strerror(number) in told
        refused += 1
        left = list(draft.path.parent.iterdir())
        if fault.refused[0].name != "unlink":
            assert left == [draft.path]
        assert draft.path.read_bytes() == before
    assert refused >= 3
    figure(describe(f"sign-{errno.errorcode[number]}", refused=refused, damaged=0))


def test_orchestrator_killed_while_it_signs_leaves_no_unsigned_clip(
    tmp_path: Path, figure: Figure
) -> None:
    night = Night(tmp_path / "night", ["sleep=0.01"] * 4, arguments=["--devices", "cpu:1"])
    signing_settings(night.folder)
    (night.folder / "lynx.toml").write_text('credentials = "certificates"\n')
    settings = load_settings(night.manifest)
    drafts = night.outputs / ".drafts"
    killed = 0
    for number in range(size(quick=2, full=40)):
        with night.start() as process:
            while process.poll() is None:
                if any(drafts.glob("*-signed.mp4")):
                    time.sleep(0.005 * (number % 8))  # while it is written, read, decoded, renamed
                    process.send_signal(signal.SIGKILL)
                    killed += 1
                    break
                time.sleep(0.001)
            process.communicate(timeout=60)
        assert unsigned(night.outputs, settings) == []
    orphans = orphans_after(night.folder)
    night.finish()
    found = audit(night)
    figure(describe("sign-kill", kills=killed, unsigned=0, orphans=orphans, **found.figures()))
    assert killed > 0
    assert found.is_clean, found
    assert unsigned(night.outputs, settings) == []
    assert len(list((night.outputs / "clips").iterdir())) == 4


def sign_in_place(
    self: Credentials, draft: Path, signed: Path, claim: Claim, **_: str
) -> Signature:
    """Sign as the library lets one: from a file to the same file."""
    chain: SigningChain = self.chain
    info = c2pa.C2paSignerInfo(chain.algorithm, chain.chain_pem, chain.key_pem, None)
    del claim, signed
    with (
        c2pa.Context.from_dict({}) as context,
        c2pa.Signer.from_info(info) as signer,
        c2pa.Builder({"claim_generator_info": [{"name": "x"}]}, context) as builder,
        draft.open("rb") as source,
        draft.open("w+b") as target,
    ):
        builder.sign(signer, "video/mp4", source, target)
    return Signature("", chain.signer)


def test_mutant_that_signs_in_place_destroys_the_draft(tmp_path: Path, figure: Figure) -> None:
    credentials = loaded(signing_settings(tmp_path))
    draft = real_draft(tmp_path / "drafts", make_sleeper_job(""))
    before = draft.path.read_bytes()
    with pytest.raises(c2pa.C2paError):
        sign_in_place(credentials, draft.path, draft.path, PROBE)
    assert draft.path.read_bytes() != before
    assert draft.path.stat().st_size < len(before)
    figure("MUTANT sign-in-place red")
