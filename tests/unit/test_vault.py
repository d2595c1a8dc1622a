"""What is kept of faces: encrypted, private, whole or not at all, and for a while only."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lynx_engine.digest import digest_bytes
from lynx_engine.errors import RefusedError
from lynx_engine.identity.vault import Vault, open_vault
from lynx_engine.settings import Settings
from tests.faults.disk import Fault, Operation, watched

KEY = bytes(range(32))
PHOTO, OTHER = digest_bytes(b"one photo"), digest_bytes(b"another photo")
DATA = bytes(random.Random(5).randbytes(200))
DAY_S = 86_400.0

Figure = Callable[[str], None]


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / ".lynx" / "faces", workspace_key=KEY, days=30)


def entry_of(vault: Vault) -> Path:
    (photo,) = vault.kept()
    return next(photo.folder.glob("*.face"))


def sleep_until(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """Let the clock say that days have gone by."""
    now_ns = time.time_ns() + round(days * DAY_S * 1e9)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_what_was_put_comes_back_for_its_photo_and_entry_only(vault: Vault) -> None:
    assert vault.get(PHOTO, "detector a") is None
    vault.put(PHOTO, "detector a", DATA, name="host")
    vault.put(PHOTO, "detector b", b"", name="host")
    vault.put(OTHER, "detector a", b"other", name="guest")
    assert vault.get(PHOTO, "detector a") == DATA
    assert vault.get(PHOTO, "detector b") == b""
    assert vault.get(OTHER, "detector a") == b"other"
    assert vault.get(OTHER, "detector b") is None
    vault.put(PHOTO, "detector a", b"new", name="host")
    assert vault.get(PHOTO, "detector a") == b"new"


def test_looking_makes_no_folder(vault: Vault, tmp_path: Path) -> None:
    assert vault.get(PHOTO, "entry") is None
    vault.remember(PHOTO, "host")
    vault.forget([tmp_path])
    assert (vault.kept(), vault.expired(), vault.remove_expired()) == ((), (), ())
    assert list(tmp_path.iterdir()) == []


def test_disk_holds_neither_the_data_nor_the_photos_digest(vault: Vault, tmp_path: Path) -> None:
    vault.put(PHOTO, "entry", DATA, name="host")
    for path in tmp_path.rglob("*"):
        assert PHOTO[:16] not in path.name
        if path.is_file():
            held = path.read_bytes()
            assert DATA[:16] not in held
            assert bytes.fromhex(PHOTO)[:16] not in held
            assert PHOTO[:16].encode() not in held


def test_each_photo_has_a_key_of_its_own(vault: Vault) -> None:
    vault.put(PHOTO, "entry", DATA, name="host")
    vault.put(OTHER, "entry", DATA, name="guest")
    first, second = ((photo.folder / "key").read_bytes() for photo in vault.kept())
    assert first != second


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_files_and_folders_are_their_owners_alone_whatever_the_umask(
    vault: Vault, tmp_path: Path, mask: int
) -> None:
    with umask(mask):
        vault.put(PHOTO, "entry", DATA, name="host")
    paths = [tmp_path / ".lynx" / "faces", *(tmp_path / ".lynx" / "faces").rglob("*")]
    assert len(paths) == 6, "lock, folder, name, key, entry"
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_folder_that_was_open_to_others_is_closed_again(vault: Vault, tmp_path: Path) -> None:
    folder = tmp_path / ".lynx" / "faces"
    folder.mkdir(parents=True, mode=0o777)
    vault.put(PHOTO, "entry", DATA, name="host")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("depth", ["vault", "photo"])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_stands_where_a_folder_should_be_is_refused_and_not_followed(
    vault: Vault, tmp_path: Path, kind: str, depth: str
) -> None:
    root = tmp_path / ".lynx" / "faces"
    place = root if depth == "vault" else root / vault.photo(PHOTO)
    place.parent.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "link":
        place.symlink_to(elsewhere)
    else:
        place.write_text("mine")
    calls: list[Callable[[], object]] = [
        lambda: vault.get(PHOTO, "entry"),
        lambda: vault.put(PHOTO, "entry", DATA, name="host"),
        vault.kept,
        vault.remove_expired,
        lambda: vault.forget([place]),
    ]
    for call in calls:
        with pytest.raises(RefusedError, match="A link is not followed") as caught:
            call()
        assert str(place) in str(caught.value)
    assert list(elsewhere.iterdir()) == []
    assert place.is_symlink() or place.read_text() == "mine"


def test_link_in_an_entrys_place_reads_as_damaged_and_is_not_followed(
    vault: Vault, tmp_path: Path
) -> None:
    vault.put(PHOTO, "entry", DATA, name="host")
    entry = entry_of(vault)
    moved = entry.rename(tmp_path / "moved")
    entry.symlink_to(moved)
    assert vault.get(PHOTO, "entry") is None
    assert (moved.exists(), entry.is_symlink()) == (True, False)


def spoiled(vault: Vault, path: Path, data: bytes) -> bytes | None:
    """Return what the vault gives when `path` holds `data`."""
    path.write_bytes(data)
    return vault.get(PHOTO, "entry")


@pytest.mark.parametrize("kind", ["face", "key"])
def test_entry_or_key_cut_at_any_length_is_a_miss_that_is_named_and_removed(
    vault: Vault, caplog: pytest.LogCaptureFixture, figure: Figure, kind: str
) -> None:
    vault.put(PHOTO, "entry", DATA, name="host")
    path = entry_of(vault)
    path = path if kind == "face" else path.with_name("key")
    whole = path.read_bytes()
    wrong = 0
    for length in range(len(whole)):
        vault.put(PHOTO, "entry", DATA, name="host")
        kept = path.read_bytes()
        caplog.clear()
        wrong += spoiled(vault, path, kept[:length]) is not None
        assert [str(path) in record.getMessage() for record in caplog.records] == [True]
        assert not path.exists()
        assert list(path.parent.glob("*.face")) == [], "of no use without the key"
    figure(f"FAULT vault-cut-{kind} cuts={len(whole)} silently_wrong={wrong}")
    assert wrong == 0


def test_two_thousand_flipped_bits_are_never_silently_wrong(
    vault: Vault, figure: Figure, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # 2000 warnings would take longer than all the rest
    vault.put(PHOTO, "entry", DATA, name="host")
    files = [entry_of(vault), entry_of(vault).with_name("key")]
    whole = {path: path.read_bytes() for path in files}
    dice = random.Random(7)
    wrong = missed = 0
    for _ in range(2000):
        for path in files:
            if not path.exists():
                path.write_bytes(whole[path])
        path = dice.choice(files)
        data = bytearray(whole[path])
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        found = spoiled(vault, path, bytes(data))
        wrong += found is not None and found != DATA
        missed += found is None
    figure(f"FAULT vault-flips flips=2000 missed={missed} silently_wrong={wrong}")
    assert (wrong, missed) == (0, 2000)


def test_entries_put_in_each_others_place_are_misses(vault: Vault) -> None:
    vault.put(PHOTO, "entry", DATA, name="host")
    vault.put(PHOTO, "second", b"other", name="host")
    vault.put(OTHER, "entry", b"third", name="guest")
    mine = next(p.folder for p in vault.kept() if p.names == ("host",))
    theirs = next(p.folder for p in vault.kept() if p.names == ("guest",))
    one, two = sorted(mine.glob("*.face"))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert (vault.get(PHOTO, "entry"), vault.get(PHOTO, "second")) == (None, None)
    # The whole folder of another photo, its key with it.
    for path in mine.iterdir():
        path.unlink()
    for path in theirs.iterdir():
        (mine / path.name).write_bytes(path.read_bytes())
    assert vault.get(PHOTO, "entry") is None
    assert vault.get(OTHER, "entry") == b"third"


def test_mutant_that_authenticates_no_label_serves_the_entry_of_another(
    vault: Vault, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lynx_engine.identity.vault._label", lambda *_: b"")
    vault.put(PHOTO, "entry", DATA, name="host")
    first = entry_of(vault)
    vault.put(PHOTO, "second", b"other", name="host")
    second = next(path for path in first.parent.glob("*.face") if path != first)
    first.write_bytes(second.read_bytes())
    assert vault.get(PHOTO, "entry") == b"other"
    figure("MUTANT vault-label red")


def test_without_its_key_an_entry_is_a_miss_and_a_new_one_takes_its_place(vault: Vault) -> None:
    vault.put(PHOTO, "entry", DATA, name="host")
    vault.put(PHOTO, "second", DATA, name="host")
    entry_of(vault).with_name("key").unlink()
    assert vault.get(PHOTO, "entry") is None
    vault.put(PHOTO, "entry", DATA, name="host")
    assert vault.get(PHOTO, "entry") == DATA
    assert vault.kept()[0].entries == 1, "what the lost key encrypted is gone"


def test_life_counts_from_the_making_not_from_the_files_times(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.put(PHOTO, "entry", DATA, name="host")
    os.utime(entry_of(vault), (0, 0))
    sleep_until(monkeypatch, 29.9)
    assert vault.expired() == ()
    assert vault.get(PHOTO, "entry") == DATA
    os.utime(entry_of(vault))
    sleep_until(monkeypatch, 0.2)
    assert vault.get(PHOTO, "entry") is None
    assert vault.kept()[0].entries == 0


def test_entry_from_the_future_is_past_its_life_too(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.put(PHOTO, "entry", DATA, name="host")
    sleep_until(monkeypatch, -1)
    assert vault.get(PHOTO, "entry") is None


def test_expired_entries_go_and_the_last_one_takes_key_names_and_folder_along(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.put(PHOTO, "old", DATA, name="host")
    vault.put(OTHER, "old", DATA, name="guest")
    sleep_until(monkeypatch, 20)
    vault.put(PHOTO, "new", DATA, name="host")
    left_behind = entry_of_name(vault, "host").with_name(".x.face.0123.tmp")
    left_behind.write_bytes(b"half")
    sleep_until(monkeypatch, 11)
    gone = {path.name for path in vault.expired()}
    assert len(gone) == 3
    assert {left_behind.name, vault.photo(OTHER)} < gone
    assert {path.name for path in vault.remove_expired()} == gone
    assert [photo.names for photo in vault.kept()] == [("host",)]
    assert vault.get(PHOTO, "new") == DATA
    assert not left_behind.exists()


def entry_of_name(vault: Vault, name: str) -> Path:
    folder = next(photo.folder for photo in vault.kept() if name in photo.names)
    return next(folder.glob("*.face"))


def test_every_name_of_a_photo_is_remembered(vault: Vault) -> None:
    vault.put(PHOTO, "entry", DATA, name="host")
    vault.remember(PHOTO, "moderator")
    vault.remember(OTHER, "nobody")
    (photo,) = vault.kept()
    assert (photo.names, photo.entries) == (("host", "moderator"), 1)
    with pytest.raises(ValueError, match="cannot be a name"):
        vault.put(PHOTO, "entry", DATA, name="../host")


def test_forgotten_photo_leaves_nothing_and_others_stay(vault: Vault, tmp_path: Path) -> None:
    vault.put(PHOTO, "entry", DATA, name="host")
    vault.put(OTHER, "entry", DATA, name="guest")
    root = tmp_path / ".lynx" / "faces"
    vault.forget([root / vault.photo(PHOTO)])
    assert {path.name for path in root.iterdir()} == {".lock", vault.photo(OTHER)}
    assert vault.get(OTHER, "entry") == DATA
    vault.forget([root / vault.photo(PHOTO)])


def test_disk_that_refuses_any_step_of_a_look_up_makes_it_a_miss(
    vault: Vault, tmp_path: Path
) -> None:
    vault.put(PHOTO, "entry", DATA, name="host")
    at, found = 0, None
    while found is None:
        at += 1
        with watched(tmp_path, Fault(errno.EIO, at)):
            found = vault.get(PHOTO, "entry")
    assert (at > 4, found) == (True, DATA)


@dataclass
class ForgottenMeanwhile:
    """A listener: when a photo's folder is about to be listed, it is gone."""

    folder: Path

    def before(self, operation: Operation) -> None:
        if operation.name == "list" and operation.path == self.folder and self.folder.exists():
            self.folder.rename(self.folder.parents[2] / "gone")

    def after(self, operation: Operation) -> None:
        pass


@pytest.mark.parametrize("look", [Vault.kept, Vault.expired])
def test_photo_that_another_process_forgets_meanwhile_is_passed_over(
    vault: Vault, tmp_path: Path, look: Callable[[Vault], tuple[object, ...]]
) -> None:
    vault.put(PHOTO, "entry", DATA, name="host")
    (photo,) = vault.kept()
    with watched(tmp_path, ForgottenMeanwhile(photo.folder)):
        assert look(vault) == ()


def _put_often(folder: Path, name: str, times: int) -> None:
    vault = Vault(folder, workspace_key=KEY, days=30)
    for number in range(times):
        vault.put(PHOTO, f"{name} {number % 3}", DATA, name=name)
        if number % 5 == 4:
            vault.forget(photo.folder for photo in vault.kept())


def test_processes_that_put_and_forget_at_once_damage_nothing(
    vault: Vault, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / ".lynx" / "faces"
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_put_often, args=(folder, n, 30)) for n in ("a", "b")]
    with caplog.at_level(logging.WARNING):
        for process in others:
            process.start()
        while any(process.is_alive() for process in others):
            assert vault.get(PHOTO, "a 0") in {None, DATA}
        assert [process.exitcode for process in others] == [0, 0]
    assert caplog.records == []
    vault.put(PHOTO, "last", DATA, name="c")
    assert vault.get(PHOTO, "last") == DATA


def test_workspaces_vault_takes_key_and_days_from_it(tmp_path: Path) -> None:
    settings = Settings(workspace=tmp_path, face_days=0.5)
    open_vault(settings).put(PHOTO, "entry", DATA, name="host")
    assert open_vault(settings).get(PHOTO, "entry") == DATA
    assert list((tmp_path / ".lynx" / "faces").glob("*/*.face"))
    (tmp_path / ".lynx" / "workspace.key").unlink()
    assert open_vault(settings).get(PHOTO, "entry") is None, "another key finds other folders"
