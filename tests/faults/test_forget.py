"""`forget` dies before any change it makes to the disk; done again, it leaves no byte of a face.

The oracle is a scan of every file of the workspace for what had been kept, plain or encrypted.
"""

from __future__ import annotations

import base64
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lynx_engine.digest import digest_file
from lynx_engine.errors import RefusedError
from lynx_engine.faces import pack_face
from lynx_engine.forgetting import find_kept, forget
from lynx_engine.identity import vault as vault_module
from lynx_engine.identity.embed import SubjectFace
from lynx_engine.identity.vault import Vault, open_vault
from lynx_engine.orders import FaceRequest
from lynx_engine.preflight import Preflight, face_keys
from lynx_engine.settings import Settings
from tests.faults.disk import CAMPAIGN, CHANGES, HonestPool, Operation, run_trial, watched
from tests.faults.harness import describe
from tests.faults.power import ForgetfulDisk, World, nothing_unsafe
from tests.integration.test_faces import LANDMARKS, face_like, job_of
from tests.support.jobs import astronaut, plan_of
from tests.support.traces import (
    Needles,
    count_traces,
    crop_needles,
    digest_needles,
    embedding_needles,
)

Figure = Callable[[str], None]

FACE = face_like(1)

ENTRIES = 4
"""What a gated or scored campaign keeps of a photo: the encoder's face, the evaluator's embedding,
what the detector found, and here one more."""


class Killed(BaseException):
    """Stands for a kill: from then on, no operation is carried out."""


@dataclass
class Death:
    """A listener that lets the process die before change number `at`, from 1."""

    at: int
    seen: int = 0

    def before(self, operation: Operation) -> None:
        if operation.name in CHANGES:
            self.seen += 1
        if self.seen >= self.at:
            raise Killed

    def after(self, operation: Operation) -> None:
        pass


class FacePool(HonestPool):
    """An honest pool that recognises one face."""

    def embed_face(self, device: str, request: FaceRequest) -> SubjectFace:
        super().embed_face(device, request)
        return FACE


@pytest.fixture
def studio(tmp_path: Path) -> Path:
    """A workspace that rendered a subject, and drew it on a contact sheet."""
    folder = tmp_path / "studio"
    settings = Settings(workspace=folder, evaluator="dlib")
    job = job_of(astronaut())
    faces = Preflight({face_keys(job)[0]: LANDMARKS}, {})
    summary = run_trial(settings, FacePool(), plan_of(job), faces=faces)
    assert summary.rendered == 1
    open_vault(settings).put(job.photo_digests[0], "second entry", pack_face(FACE), name="guest")
    shown = base64.b64encode(FACE.reference_crop.tobytes()).decode()
    sheet = settings.campaign_dir(CAMPAIGN)
    (sheet / "subjects.html").write_text(f"<td>host</td><img src='data:image/png;base64,{shown}'>")
    (sheet / "subjects.png").write_bytes(FACE.reference_crop.tobytes())
    (sheet / ".subjects.png.0123.tmp").write_bytes(FACE.reference_crop.tobytes()[:5000])
    return folder


def needles_in(studio: Path) -> Needles:
    """Return what must not be found: plain values, and the very key and ciphertext there now."""
    sealed = [path.read_bytes() for path in studio.glob(".lynx/faces/*/*.face")]
    keys = [path.read_bytes()[:32] for path in studio.glob(".lynx/faces/*/key")]
    assert (len(sealed), len(keys)) == (ENTRIES, 1)
    clips = [path.read_bytes() for path in studio.glob("outputs/*/clips/*.mp4")]
    return {
        "embedding_bytes": embedding_needles(FACE.embedding),
        "crop_bytes": crop_needles(FACE.reference_crop),
        "digests": digest_needles(digest_file(astronaut())),
        "ciphertext": [data[at : at + 32] for data in sealed for at in range(0, len(data), 4099)],
        "keys": [key[:16] for key in keys] + [key[16:] for key in keys],
        "clips": clips,
    }


def forget_host(studio: Path) -> None:
    settings = Settings(workspace=studio)
    forget(find_kept(["host"], settings, with_clips=True), settings)


def kill_everywhere(studio: Path, place: Path) -> tuple[Counter[str], int]:
    """Kill `forget` before each of its changes and run it again; return what it left, summed."""
    needles = needles_in(studio)
    left: Counter[str] = Counter(dict.fromkeys(needles, 0))
    at = 0
    while True:
        at += 1
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(studio, place)
        death = Death(at)
        try:
            with watched(place, death):
                forget_host(place)
        except Killed:
            forget_host(place)
            left.update(count_traces(place, needles))
            left["folders"] += len([p for p in (place / ".lynx" / "faces").iterdir() if p.is_dir()])
        else:
            return left, at - 1


def test_forget_killed_before_any_change_and_done_again_leaves_no_byte_of_a_face(
    tmp_path: Path, studio: Path, figure: Figure
) -> None:
    needles = needles_in(studio)
    before = count_traces(studio, needles)
    assert before == Counter(
        embedding_bytes=0, crop_bytes=3, digests=0, ciphertext=ENTRIES, keys=1, clips=1
    ), "the scan finds what is there to be forgotten"
    left, kills = kill_everywhere(studio, tmp_path / "tried")
    figure(describe("forget", kills=kills, **left))
    assert kills > 20
    assert left.total() == 0


def test_mutant_that_leaves_the_key_and_one_entry_is_found_out(
    studio: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(folder: Path) -> None:
        for entry in sorted(folder.glob("*.face"))[1:]:
            entry.unlink()

    monkeypatch.setattr(vault_module, "_remove_photo", half)
    needles = needles_in(studio)
    forget_host(studio)
    left = count_traces(studio, needles)
    assert (left["ciphertext"], left["keys"]) == (1, 1)
    figure("MUTANT forget-half red")


@pytest.mark.parametrize(
    "written",
    [
        FACE.embedding.tobytes()[100:140],
        b"x" + base64.b64encode(FACE.embedding.tobytes()),
        b"xx" + base64.b64encode(b"12" + FACE.embedding.tobytes()),
        repr(FACE.embedding.tolist()).encode(),
        str(FACE.embedding).encode(),
        repr([round(float(number), 6) for number in FACE.embedding]).encode(),
    ],
    ids=["raw", "base64", "base64 moved", "list", "array", "rounded"],
)
def test_scan_finds_an_embedding_however_it_was_written(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "anything").write_bytes(b"before " + written + b" after")
    needles = {"embedding": embedding_needles(FACE.embedding)}
    assert count_traces(tmp_path, needles)["embedding"] == 1


def worlds_of(studio: Path) -> list[World]:
    """Return what a power cut leaves at worst, before each operation of `forget` and after it."""
    disk = ForgetfulDisk(studio, journal=False)
    with watched(studio, disk):
        forget_host(studio)
    disk.before(Operation("end", studio))
    return [nothing_unsafe(moment) for moment in disk.moments]


def held(world: World) -> Counter[str]:
    """Count keys and entries of the photo in a world."""
    return Counter(
        "key" if name.endswith("/key") else "entry"
        for name in world
        if name.endswith(("/key", ".face"))
    )


def order_kept(worlds: list[World]) -> bool:
    """Whether no entry went before its key, and nothing is left once `forget` had returned."""
    keyed_first = all(w["key"] == 0 or w["entry"] == ENTRIES for w in map(held, worlds))
    return keyed_first and held(worlds[-1]).total() == 0


def test_power_cut_finds_the_key_gone_before_any_entry_and_all_gone_at_the_end(
    studio: Path, figure: Figure
) -> None:
    worlds = worlds_of(studio)
    assert held(worlds[0]) == Counter(key=1, entry=ENTRIES)
    assert order_kept(worlds)
    figure(describe("forget-power", cuts=len(worlds), lost_order=0))


def test_mutant_that_syncs_no_folder_leaves_the_key_after_a_power_cut(
    studio: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault_module, "sync_folder", lambda _: None)
    assert not order_kept(worlds_of(studio))
    figure("MUTANT forget-fsync red")


def test_name_that_only_a_killed_forget_knew_is_told_as_unknown_with_nothing_left(
    tmp_path: Path,
) -> None:
    settings = Settings(workspace=tmp_path)
    vault: Vault = open_vault(settings)
    vault.put("ab" * 32, "entry", b"data", name="host")
    with pytest.raises(RefusedError, match=r"hots: nothing is kept .* did you mean 'host'\?"):
        find_kept(["hots"], settings)
    forget(find_kept(["host"], settings), settings)
    assert vault.kept() == ()
    with pytest.raises(RefusedError, match="host: nothing is kept under this name"):
        find_kept(["host"], settings)
