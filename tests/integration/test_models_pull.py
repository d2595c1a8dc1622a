"""`lynx-engine models pull` as installed, against a stand-in of the Hub on real sockets."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub import Fault, Hub, git_blob_id, serving
from tests.support.repositories import (
    BASE,
    FACE,
    LYNX,
    RELEASE,
    SHARD_BYTES,
    SHARDS,
    WAN,
    adapter_files,
    base_files,
    fill,
    layout,
    noise,
)
from tests.support.studios import studio_at
from tests.support.workspaces import COMMAND, Workspace

SHARD = f"{BASE}/transformer/{SHARDS[1]}"
SECRET = "hf_thisIsASecretOfTheTest"


@pytest.fixture
def hub() -> Generator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def studio(hub: Hub, tmp_path: Path) -> Workspace:
    return studio_at(hub, tmp_path)


def start(studio: Workspace, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "models", *arguments],
        cwd=studio.folder,
        env=studio.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lock_of(studio: Workspace) -> dict[str, Any]:
    return json.loads((studio.folder / "models/models.lock.json").read_text())["files"]


def here(studio: Workspace) -> dict[str, bytes]:
    """What lies in the models folder, hidden files aside."""
    root = studio.folder / "models"
    found = (p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in found}
    files.pop("models.lock.json", None)
    return files


def halves(studio: Workspace) -> list[Path]:
    return sorted((studio.folder / "models").rglob("*.part"))


def refused(studio: Workspace, code: int, *arguments: str, **variables: str) -> str:
    done = studio.run("models", *(arguments or ("pull", "lynx_full")), **variables)
    told = done.stdout + done.stderr
    assert done.returncode == code, told
    assert "Traceback" not in told
    assert "bug" not in told
    assert SECRET not in told
    return told


def test_first_pull_brings_what_is_read_and_pins_commits_and_digests(
    hub: Hub, studio: Workspace
) -> None:
    base, adapters = fill(hub)
    told = studio.json("models", "pull", "lynx_full")
    expected = layout("lynx_full")
    assert here(studio) == expected
    assert told["fetched"] == {name: len(data) for name, data in expected.items()}
    locked = lock_of(studio)
    assert {name: entry["sha256"] for name, entry in locked.items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in expected.items()
    }
    assert {name: entry["size"] for name, entry in locked.items()} == told["fetched"]
    assert (locked[SHARD]["revision"], locked[SHARD]["digest"]) == (base, "of the Hub's metadata")
    assert locked["lynx_full/resampler.safetensors"]["revision"] == adapters
    assert locked[f"{BASE}/model_index.json"]["digest"] == (
        "of bytes whose git blob id is the Hub's"
    )
    assert locked[FACE]["digest"] == "of the first download"
    assert "revision" not in locked[FACE]
    assert locked[SHARD]["source"] == f"huggingface.co/{WAN}"
    assert halves(studio) == []


def test_stand_in_counts_git_blobs_as_git_does(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(noise("blob"))
    told = subprocess.run(
        ["git", "hash-object", tmp_path / "file"], capture_output=True, text=True, check=True
    )
    assert git_blob_id(noise("blob")) == told.stdout.strip()


def test_later_pull_takes_the_pinned_commit_although_the_repository_moved_on(
    hub: Hub, studio: Workspace
) -> None:
    base, adapters = fill(hub)
    studio.json("models", "pull", "lynx_full")
    hub.commit(WAN, base_files("new"))
    hub.commit(LYNX, adapter_files("new"))
    for name in (SHARD, f"{BASE}/tokenizer/tokenizer.json"):
        (studio.folder / "models" / name).unlink()
    told = studio.json("models", "pull", "lynx_full", "lynx_lite")
    assert here(studio) == {**layout("lynx_full"), **layout("lynx_lite")}
    assert set(told["fetched"]) == {
        SHARD,
        f"{BASE}/tokenizer/tokenizer.json",
        "lynx_lite/resampler.safetensors",
        "lynx_lite/ip_layers.safetensors",
    }
    # Another folder of a repository that is pinned already.
    assert lock_of(studio)["lynx_lite/resampler.safetensors"]["revision"] == adapters
    assert lock_of(studio)[SHARD]["revision"] == base


def test_pull_of_what_is_complete_asks_nobody(hub: Hub, studio: Workspace) -> None:
    fill(hub)
    studio.json("models", "pull", "lynx_full")
    asked = len(hub.requests)
    told = studio.json("models", "pull", "lynx_full")
    assert len(hub.requests) == asked
    assert (told["fetched"], sorted(told["kept"])) == ({}, sorted(layout("lynx_full")))


def test_connection_that_breaks_is_taken_up_where_it_broke(hub: Hub, studio: Workspace) -> None:
    fill(hub)
    hub.faults[SHARDS[1]] = Fault(cut_after=123_457)
    studio.json("models", "pull", "wan")
    starts = [r.start for r in hub.asked_for(SHARDS[1]) if r.path.startswith("/cdn/")]
    assert starts == [0, 123_457]
    assert hub.sent(SHARDS[1]) == SHARD_BYTES
    assert here(studio) == layout("wan")


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGKILL, 1),
        (signal.SIGKILL, 200_001),
        (signal.SIGKILL, SHARD_BYTES - 1),
        (signal.SIGINT, 200_001),
        (signal.SIGTERM, 200_001),
    ],
)
def test_killed_pull_goes_on_at_the_byte_it_was_killed_at(
    hub: Hub, studio: Workspace, after: int, number: signal.Signals
) -> None:
    fill(hub)
    hub.faults[SHARDS[1]] = Fault(hold_after=after)
    pulling = start(studio, "pull", "wan")
    give_up = time.monotonic() + 60
    while not any(size_of(p) == after for p in halves(studio)):
        assert time.monotonic() < give_up, pulling.poll()
        time.sleep(0.02)
    pulling.send_signal(number)
    out, told = pulling.communicate(timeout=30)
    codes = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}
    assert pulling.returncode == codes[number]
    assert "Traceback" not in out + told
    hub.faults.pop(SHARDS[1]).released.set()
    assert SHARD not in here(studio)
    (report,) = (r for r in studio.json("models", "list") if r["variant"] == "wan")
    assert report["state"] == "partial"
    told = studio.json("models", "pull", "wan")
    again = [r for r in hub.asked_for(SHARDS[1]) if r.path.startswith("/cdn/")][1:]
    assert [(r.start, r.sent) for r in again] == [(after, SHARD_BYTES - after)]
    assert SHARDS[0] not in str(told["fetched"]), "what was complete is not fetched again"
    assert here(studio) == layout("wan")
    assert halves(studio) == []


def size_of(path: Path) -> int:
    """Return a file's size, or -1 if it has its whole name by now."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


@pytest.mark.parametrize("name", [SHARDS[1], "tokenizer/tokenizer.json"])
def test_download_with_a_flipped_bit_is_refused_and_named(
    hub: Hub, studio: Workspace, name: str
) -> None:
    fill(hub)
    hub.faults[name] = Fault(flip=1)
    told = refused(studio, 4, "pull", "wan")
    assert name in told
    assert "came damaged" in told
    assert not any(known.endswith(name) for known in here(studio))
    assert halves(studio) == []
    hub.faults.clear()
    studio.json("models", "pull", "wan")
    assert here(studio) == layout("wan")


def test_source_with_fewer_bytes_than_it_says_is_refused(hub: Hub, studio: Workspace) -> None:
    fill(hub)
    hub.faults[SHARDS[1]] = Fault(content=noise("short", 1000))
    told = refused(studio, 4, "pull", "wan")
    assert "holds no byte after the first 1000, and said 400000" in told
    assert SHARD not in here(studio)


def test_pull_that_will_not_find_room_is_refused_before_the_first_byte(
    hub: Hub, studio: Workspace
) -> None:
    fill(hub)
    huge = {"lfs": {"sha256": "a" * 64, "size": 10**15, "pointerSize": 134}}
    hub.odd_metadata[f"transformer/{SHARDS[1]}"] = huge
    told = refused(studio, 5, "pull", "wan")
    assert "needs 1000.0 TB more for these weights" in told
    assert "Make room, or name a folder on another disk" in told
    assert hub.sent() == 0


def test_what_is_half_here_counts_as_here(hub: Hub, studio: Workspace) -> None:
    import shutil

    fill(hub)
    hub.faults[SHARDS[1]] = Fault(status=404)  # not 503: that one is tried again for half a minute
    refused(studio, 2, "pull", "wan")
    size = 2 * shutil.disk_usage(studio.folder).free
    digest = hashlib.sha256(b"never fetched").hexdigest()
    hub.odd_metadata[f"transformer/{SHARDS[2]}"] = {
        "lfs": {"sha256": digest, "size": size, "pointerSize": 134}
    }
    lock = studio.folder / "models/models.lock.json"
    files = {n: e for n, e in lock_of(studio).items() if SHARDS[2] not in n}
    lock.write_text(json.dumps({"files": files}))
    part = studio.folder / "models" / BASE / "transformer" / f".{SHARDS[2]}.{digest[:16]}.part"
    (studio.folder / "models" / BASE / "transformer" / SHARDS[2]).unlink(missing_ok=True)
    assert "more for these weights" in refused(studio, 5, "pull", "wan")
    with part.open("wb") as file:
        file.truncate(size - 10_000)  # a hole: it takes no room
    assert "answers 404" in refused(studio, 2, "pull", "wan")


def test_disk_that_refuses_in_the_middle_pauses_and_keeps_what_came(
    hub: Hub, studio: Workspace
) -> None:
    fill(hub)
    done = subprocess.run(
        [COMMAND, "models", "pull", "wan"],
        cwd=studio.folder,
        env=studio.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        # A file of more bytes is refused by the system, as a full disk refuses.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000)),
    )
    assert done.returncode == 5, done.stderr
    assert "File too large. Nothing is lost: make room" in done.stderr
    assert [part.stat().st_size for part in halves(studio)] == [150_000]
    studio.json("models", "pull", "wan")
    assert hub.asked_for(SHARDS[0])[-1].start == 150_000
    assert here(studio) == layout("wan")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, 2, "answers 401 for Wan-AI/Wan2.1-T2V-14B-Diffusers: there is no such repository"),
        (403, 2, "set HF_TOKEN"),
        (404, 2, "no such repository, commit or file there"),
        (429, 5, "overloaded or in trouble"),
        (500, 5, "Run the same command again later"),
        (503, 5, "Run the same command again later"),
    ],
)
def test_answer_that_is_no_file_is_told_in_a_letter(
    hub: Hub, studio: Workspace, status: int, code: int, words: str
) -> None:
    fill(hub)
    hub.status = status
    told = refused(studio, code, HF_TOKEN=SECRET)
    assert words in told
    assert f"127.0.0.1:{hub.port}" in told
    assert len(told.splitlines()) <= 3


@pytest.mark.parametrize(
    ("variables", "code", "words"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, 5, "127.0.0.1:9: Wan-AI/"),
        ({"HF_ENDPOINT": "http://mirror.invalid"}, 5, "mirror.invalid: Wan-AI/"),
        ({"HF_ENDPOINT": f"http://me:{SECRET}@127.0.0.1:9"}, 5, "127.0.0.1:9: Wan-AI/"),
        ({"HF_ENDPOINT": "mirror"}, 5, "cannot be fetched"),
        ({"HF_HUB_OFFLINE": "1"}, 2, "HF_HUB_OFFLINE is set"),
    ],
)
def test_network_that_is_not_there_is_told_in_a_letter(
    hub: Hub, studio: Workspace, variables: dict[str, str], code: int, words: str
) -> None:
    fill(hub)
    told = refused(studio, code, "pull", "lynx_full", HF_TOKEN=SECRET, **variables)
    assert words in told
    assert len(told.splitlines()) <= 3


def test_endpoint_that_is_no_hub_is_told_in_a_letter(hub: Hub, studio: Workspace) -> None:
    hub.releases[f"/api/models/{WAN}"] = b"<html>Please log in to the hotel's network.</html>"
    assert "does not answer as the Hub does" in refused(studio, 2, "pull", "wan")


def test_release_that_is_gone_is_told_in_a_letter(hub: Hub, studio: Workspace) -> None:
    fill(hub)
    del hub.releases[RELEASE]
    told = refused(studio, 2)
    assert "answers 404 for github.com/xinntao/facexlib, release v0.1.0" in told


def test_pinned_commit_that_is_gone_is_told_with_the_way_out(hub: Hub, studio: Workspace) -> None:
    base, _ = fill(hub)
    studio.json("models", "pull", "wan")
    hub.commits[WAN].pop(base)
    hub.commit(WAN, base_files())
    (studio.folder / "models" / SHARD).unlink()
    assert "pins a commit that is gone" in refused(studio, 2, "pull", "wan")


def test_token_goes_to_the_mirror_and_nowhere_else(hub: Hub, studio: Workspace) -> None:
    fill(hub)
    hub.token = SECRET
    assert "set HF_TOKEN" in refused(studio, 2)
    hub.requests.clear()
    done = studio.run("models", "pull", "lynx_full", HF_TOKEN=SECRET)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    # Which program calls, a question that the client puts to any Hub by itself.
    asked = [r for r in hub.requests if r.path != "/api/agent-harnesses"]
    told = {(r.path.split("/")[1] in {"cdn", "xinntao"}, r.authorization) for r in asked}
    assert told == {(False, f"Bearer {SECRET}"), (True, "")}
    assert {r.host for r in hub.requests if r.path.startswith("/api/")} == {hub.url[7:]}


def test_two_pulls_at_once_fetch_each_byte_once_and_leave_one_whole_lock(
    hub: Hub, studio: Workspace
) -> None:
    fill(hub)
    hub.faults[SHARDS[0]] = Fault(hold_after=1000)
    first = start(studio, "pull", "lynx_full")
    give_up = time.monotonic() + 60
    while not halves(studio):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    others = [start(studio, "pull", name) for name in ("lynx_full", "lynx_lite")]
    time.sleep(2)
    hub.faults[SHARDS[0]].released.set()
    told = [process.communicate(timeout=60)[1] for process in (first, *others)]
    assert [process.returncode for process in (first, *others)] == [0, 0, 0], told
    assert any("Waiting for process" in words for words in told[1:])
    expected = {**layout("lynx_full"), **layout("lynx_lite")}
    assert here(studio) == expected
    assert hub.sent() == sum(map(len, expected.values()))
    assert set(lock_of(studio)) == set(expected)


def test_lock_written_by_many_processes_at_once_loses_no_entry(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from lynx_engine.weights.lock import LockedFile, add_to_lock\n"
        "for n in range(20):\n"
        "    add_to_lock(Path(sys.argv[1]), {f'{sys.argv[2]}-{n}': LockedFile('a' * 64)})\n"
    )
    python = COMMAND.parent / "python"
    writers = [
        subprocess.Popen([python, "-c", program, tmp_path, str(w)], env=dict(os.environ))
        for w in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    files = json.loads((tmp_path / "models.lock.json").read_text())["files"]
    assert set(files) == {f"{w}-{n}" for w in range(4) for n in range(20)}


def test_files_that_are_here_and_right_are_adopted_and_not_fetched(
    hub: Hub, studio: Workspace
) -> None:
    fill(hub)
    for name, data in layout("lynx_full").items():
        studio.write(f"models/{name}", "")
        (studio.folder / "models" / name).write_bytes(data)
    told = studio.json("models", "pull", "lynx_full")
    assert (told["fetched"], sorted(told["adopted"])) == ({}, sorted(layout("lynx_full")))
    assert hub.sent() == 0
    locked = lock_of(studio)
    assert locked[FACE]["digest"] == "of the file found here"
    assert set(locked) == set(layout("lynx_full"))
    assert {r["state"] for r in studio.json("models", "list") if r["variant"] == "lynx_full"} == {
        "complete"
    }


@pytest.mark.parametrize("name", [SHARD, f"{BASE}/tokenizer/tokenizer.json", FACE])
@pytest.mark.parametrize("changed", ["longer", "flipped"])
def test_file_that_is_here_and_differs_is_named_and_kept_until_replace(
    hub: Hub, studio: Workspace, name: str, changed: str
) -> None:
    fill(hub)
    studio.json("models", "pull", "lynx_full")
    path = studio.folder / "models" / name
    data = path.read_bytes()
    mine = data + b"!" if changed == "longer" else bytes([data[0] ^ 1]) + data[1:]
    path.write_bytes(mine)
    told = refused(studio, 4)
    assert str(path) in told
    assert "--replace" in told
    assert path.read_bytes() == mine
    told = studio.json("models", "pull", "lynx_full", "--replace")
    assert list(told["fetched"]) == [name]
    assert here(studio) == layout("lynx_full")


def test_folder_in_a_files_place_is_named_before_anything_is_fetched(
    hub: Hub, studio: Workspace
) -> None:
    fill(hub)
    place = studio.folder / "models/lynx_full/ip_layers.safetensors"
    place.mkdir(parents=True)
    for flags in ([], ["--replace"]):
        done = studio.run("models", "pull", "lynx_full", *flags)
        assert done.returncode == 2
        assert f"{place}: is a folder, not a file. Move it away" in done.stderr
    assert hub.sent() == 0


def test_damaged_index_is_named_and_replaced_like_any_file(hub: Hub, studio: Workspace) -> None:
    fill(hub)
    studio.json("models", "pull", "wan")
    name = f"{BASE}/transformer/diffusion_pytorch_model.safetensors.index.json"
    (studio.folder / "models" / name).write_text("{}")
    assert name in refused(studio, 4, "pull", "wan")
    assert list(studio.json("models", "pull", "wan", "--replace")["fetched"]) == [name]
    assert here(studio) == layout("wan")


def test_stated_digest_of_the_recogniser_is_checked_and_noted(hub: Hub, studio: Workspace) -> None:
    fill(hub)
    right = hashlib.sha256(noise("arcface", 20_000)).hexdigest()
    told = refused(studio, 4, "pull", "lynx_full", "--sha256", "b" * 64)
    assert FACE in told
    assert f"it should have {'b' * 64}" in told
    assert FACE not in here(studio)
    assert "no sha256" in refused(studio, 2, "pull", "lynx_full", "--sha256", "b" * 63)
    assert "fetch none" in refused(studio, 2, "pull", "wan", "--sha256", right)
    studio.json("models", "pull", "lynx_full", "--sha256", right.upper())
    assert lock_of(studio)[FACE]["digest"] == "stated with --sha256"
    told = refused(studio, 2, "pull", "lynx_full", "--sha256", "b" * 64)
    assert "contradicts models.lock.json" in told


def test_first_download_of_the_recogniser_counts_from_then_on(hub: Hub, studio: Workspace) -> None:
    fill(hub)
    studio.json("models", "pull", "lynx_full")
    (studio.folder / "models" / FACE).unlink()
    hub.releases[RELEASE] = noise("another file of that name", 20_000)
    told = refused(studio, 4)
    assert FACE in told
    assert "came damaged" in told
    assert FACE not in here(studio)


def test_half_of_another_release_is_not_continued(hub: Hub, studio: Workspace) -> None:
    fill(hub)
    hub.faults[RELEASE] = Fault(hold_after=7000)
    pulling = start(studio, "pull", "lynx_full")
    give_up = time.monotonic() + 60
    while not any(p.stat().st_size == 7000 for p in halves(studio)):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    pulling.kill()
    pulling.communicate()
    hub.faults.pop(RELEASE).released.set()
    hub.releases[RELEASE] = noise("a newer one", 20_000)
    studio.json("models", "pull", "lynx_full")
    assert here(studio)[FACE] == noise("a newer one", 20_000)
    assert halves(studio) == []


def test_repository_cannot_write_outside_of_its_folder(hub: Hub, studio: Workspace) -> None:
    hub.commit(WAN, {**base_files(), "vae/../../../out.json": b"{}"})
    assert "outside of its folder" in refused(studio, 2, "pull", "wan")
    assert not list(studio.folder.rglob("out.json"))


def test_repository_without_a_file_that_is_read_is_told(hub: Hub, studio: Workspace) -> None:
    files = base_files()
    del files["vae/config.json"]
    hub.commit(WAN, files)
    told = refused(studio, 2, "pull", "wan")
    assert f"{BASE}/vae/config.json: is read by the engine, and its source holds no" in told


def test_variants_made_here_have_nothing_to_pull(studio: Workspace) -> None:
    done = studio.run("models", "pull", "tiny", "sleeper")
    assert done.returncode == 0
    assert "tiny: nothing to pull; its weights are made on this machine" in done.stdout
    assert "sleeper: nothing to pull; it has no weights" in done.stdout
    told = refused(studio, 2, "pull", "lynx_ful")
    assert "unknown variant, did you mean 'lynx_full'?" in told


def test_all_pulls_every_variant(hub: Hub, studio: Workspace) -> None:
    fill(hub)
    told = studio.json("models", "pull", "all")
    assert told["variants"] == ["wan", "lynx_full", "lynx_lite", "safety"]
    assert told["made_here"] == ["tiny", "tiny_lite", "sleeper"]
    assert here(studio) == {**layout("lynx_full"), **layout("lynx_lite"), **layout("safety")}


def test_entries_go_where_the_person_keeps_them(hub: Hub, studio: Workspace) -> None:
    fill(hub)
    disk = studio.folder / "disk"
    studio.write("lynx.toml", f'models = "weights"\n[model_paths]\nlynx_full = "{disk}/adapters"\n')
    arguments = ("--model-path", f"{BASE}=disk/wan", "--model-path", f"{FACE}=disk/face.pth")
    studio.json("models", "pull", "lynx_full", *arguments)
    expected = layout("lynx_full")
    assert (disk / "face.pth").read_bytes() == expected[FACE]
    for entry, place in ((BASE, disk / "wan"), ("lynx_full", disk / "adapters")):
        found = {p for p in place.rglob("*") if p.is_file()}
        assert {f"{entry}/{p.relative_to(place).as_posix()}" for p in found} == {
            name for name in expected if name.startswith(f"{entry}/")
        }
    files = json.loads((studio.folder / "weights/models.lock.json").read_text())["files"]
    assert set(files) == set(expected)
    paths = json.dumps({BASE: str(disk / "wan"), FACE: str(disk / "face.pth")})
    listed = {
        r["weights"]: r
        for r in json.loads(studio.run("models", "list", "--json", LYNX_MODEL_PATHS=paths).stdout)
        if r["variant"] == "lynx_full"
    }
    assert {r["state"] for r in listed.values()} == {"complete"}
    assert listed[BASE]["where"] == str(disk / "wan")
    assert "missing" not in {
        v["missing"]
        for v in json.loads(studio.run("variants", "--json", LYNX_MODEL_PATHS=paths).stdout)
        if v["name"] == "lynx_full"
    }


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (
            ("--model-path", "lynx_ful=/x"),
            {},
            "unknown entry 'lynx_ful', did you mean 'lynx_full'?",
        ),
        (("--model-path", "lynx_full"), {}, "'lynx_full' is not a pair; write name=path"),
        ((), {"LYNX_MODEL_PATHS": "lynx_full=/x"}, "LYNX_MODEL_PATHS: not valid JSON"),
        ((), {"LYNX_MODEL_PATHS": '{"zzz": "/x"}'}, "unknown entry 'zzz'; it is one of Wan2.1"),
    ],
)
def test_wrong_layout_of_ones_own_is_refused_with_the_right_word(
    studio: Workspace, arguments: tuple[str, ...], variables: dict[str, str], words: str
) -> None:
    assert words in refused(studio, 2, "list", *arguments, **variables)
