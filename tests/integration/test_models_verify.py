"""`lynx-engine models list` and `verify` as installed: what is told of weights that are here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub import serving
from tests.support.repositories import BASE, FACE, SHARDS, fill, layout
from tests.support.studios import studio_at
from tests.support.workspaces import Workspace

SHARD = f"{BASE}/transformer/{SHARDS[1]}"
ADAPTER = "lynx_full/ip_layers.safetensors"


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with lynx_full as `models pull` leaves it."""
    folder = tmp_path_factory.mktemp("pulled") / "studio"
    folder.mkdir()
    (folder / "lynx.toml").touch()
    with serving() as hub:
        fill(hub)
        studio_at(hub, folder).json("models", "pull", "lynx_full")
    return folder


@pytest.fixture
def studio(pulled: Path, tmp_path: Path) -> Workspace:
    folder = tmp_path / "studio"
    shutil.copytree(pulled, folder)
    return Workspace(folder, {"LYNX_CACHE": str(folder / "cache")})


def verify(studio: Workspace, *arguments: str) -> tuple[int, dict[str, str]]:
    """Return the exit code, and the verdict on each file that is not right."""
    done = studio.run("models", "verify", *arguments, "--json")
    told = json.loads(done.stdout)
    assert told["exit_code"] == done.returncode
    return done.returncode, {
        found["file"]: found["verdict"] for found in told["files"] if found["verdict"] != "right"
    }


def states(studio: Workspace, variant: str = "lynx_full") -> dict[str, Any]:
    listed = studio.json("models", "list")
    return {r["weights"]: r["state"] for r in listed if r["variant"] == variant}


def flip_unseen(path: Path) -> None:
    """Turn a bit, as a failing disk does: size and time stay."""
    before = path.stat()
    with path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_was_pulled_verifies_and_is_complete(studio: Workspace) -> None:
    assert verify(studio) == (0, {})
    assert verify(studio, "lynx_full") == (0, {})
    assert set(states(studio).values()) == {"complete"}
    assert states(studio, "lynx_lite")["lynx_lite"] == "missing"
    (tiny,) = (r for r in studio.json("models", "list") if r["variant"] == "tiny")
    assert tiny["state"] == "made here"


def test_list_tells_where_size_licence_and_source(studio: Workspace) -> None:
    found = {r["weights"]: r for r in studio.json("models", "list") if r["variant"] == "lynx_full"}
    files = layout("lynx_full")
    assert found[BASE]["bytes"] == sum(len(d) for n, d in files.items() if n.startswith(BASE))
    assert found[BASE]["where"] == str(studio.folder / "models" / BASE)
    assert found[BASE]["licence"] == "Apache-2.0"
    assert "non-commercial" in found[FACE]["licence"]
    assert "facexlib" in found[FACE]["source"]
    shown = studio.run("models", "list").stdout
    assert "not verified" in shown  # it was, where it was copied from
    assert str(studio.folder / "models" / BASE) in shown


@pytest.mark.parametrize("name", [SHARD, ADAPTER, FACE])
def test_damage_that_keeps_size_and_time_is_found_by_verify(studio: Workspace, name: str) -> None:
    flip_unseen(studio.folder / "models" / name)
    assert verify(studio) == (4, {name: "differs"})
    told = studio.run("models", "verify").stdout
    digest = hashlib.sha256(layout("lynx_full")[name]).hexdigest()
    assert f"the lock says {digest}" in told
    assert "it comes from" in told


def test_missing_cut_and_unlisted_files_are_named_all_at_once(studio: Workspace) -> None:
    models = studio.folder / "models"
    (models / ADAPTER).unlink()
    (models / FACE).write_bytes(b"cut")
    (models / "lynx_full" / "notes.txt").write_text("mine")
    lock = models / "models.lock.json"
    files = json.loads(lock.read_text())["files"]
    del files[SHARD]
    lock.write_text(json.dumps({"files": files}))
    code, found = verify(studio)
    assert code == 4
    assert found == {
        ADAPTER: "missing",
        FACE: "differs",
        SHARD: "unlisted",
        "lynx_full/notes.txt": "extra",
    }
    assert states(studio) == {BASE: "not verified", "lynx_full": "partial", FACE: "partial"}


def test_where_nothing_is_verify_says_so_and_where_to_look(tmp_path: Path) -> None:
    empty = Workspace(tmp_path, {"LYNX_CACHE": str(tmp_path / "cache")})
    done = empty.run("models", "verify")
    assert done.returncode == 0
    assert f"Nothing to verify: no weights are in {tmp_path}" in done.stdout.replace("\n", "")
    assert "models pull" in done.stdout
    assert "tiny: nothing to verify" in empty.run("models", "verify", "tiny").stdout


def test_each_fault_is_told_in_one_line(studio: Workspace) -> None:
    (studio.folder / "models" / ADAPTER).unlink()
    told = studio.run("models", "verify").stdout
    assert told.startswith(f"{studio.folder / 'models' / ADAPTER} is missing; it comes from")
    assert "16 files as " in told
    assert "says, 1 not." in told


def test_extra_file_alone_is_no_damage(studio: Workspace) -> None:
    (studio.folder / "models/lynx_full/notes.txt").write_text("mine")
    assert verify(studio) == (0, {"lynx_full/notes.txt": "extra"})


def test_variant_that_is_not_here_is_damage_only_when_it_is_named(studio: Workspace) -> None:
    assert verify(studio)[0] == 0
    code, found = verify(studio, "lynx_lite")
    assert code == 4
    assert found == dict.fromkeys(
        ["lynx_lite/resampler.safetensors", "lynx_lite/ip_layers.safetensors"], "missing"
    )


def test_record_lists_what_is_here_and_changes_no_listed_digest(studio: Workspace) -> None:
    lock = studio.folder / "models/models.lock.json"
    before = json.loads(lock.read_text())["files"]
    lock.write_text(json.dumps({"files": {n: e for n, e in before.items() if n != FACE}}))
    flip_unseen(studio.folder / "models" / SHARD)
    assert verify(studio, "--record") == (4, {SHARD: "differs", FACE: "recorded"})
    after = json.loads(lock.read_text())["files"]
    assert after[SHARD] == before[SHARD]
    assert after[FACE]["sha256"] == before[FACE]["sha256"]
    assert after[FACE]["digest"] == "of the file found here"


def test_touched_file_is_not_verified_until_it_is_read_again(studio: Workspace) -> None:
    os.utime(studio.folder / "models" / ADAPTER)
    assert states(studio)["lynx_full"] == "not verified"
    assert verify(studio)[0] == 0
    assert states(studio)["lynx_full"] == "complete"


def test_broken_lock_and_index_are_letters(studio: Workspace) -> None:
    models = studio.folder / "models"
    index = models / BASE / "transformer/diffusion_pytorch_model.safetensors.index.json"
    index.write_text("{}")
    assert states(studio)[BASE] == "partial"
    code, found = verify(studio)
    assert (code, found[BASE]) == (4, "differs")
    (models / "models.lock.json").write_text("[]")
    for command in ("list", "verify"):
        done = studio.run("models", command)
        assert done.returncode == 2
        assert "models.lock.json: not a lock file" in done.stderr
        assert "Traceback" not in done.stderr


def test_flag_names_the_folder_for_every_command_that_reads_weights(studio: Workspace) -> None:
    (studio.folder / "models").rename(studio.folder / "elsewhere")
    shown = studio.run("variants", "--json", "--models", "elsewhere")
    missing = {v["name"]: v["missing"] for v in json.loads(shown.stdout)}
    assert missing["lynx_full"] == ""
    assert str(studio.folder / "elsewhere") in missing["lynx_lite"]
    manifest = studio.write(
        "m.yaml",
        [
            "campaign: trial",
            "defaults: {variant: wan, safety: acknowledged-off}",
            "rows: [{text: A walk., seed: 1}]",
        ],
    )
    below = studio.folder / "below"
    below.mkdir()
    inside = Workspace(below, studio.variables)
    assert "weights of wan are missing" in inside.run("plan", manifest).stderr
    planned = inside.json("plan", manifest, "--models", "../elsewhere")
    assert len(planned["to_run"]) == 1
    assert inside.run("check", manifest, "--models", "../elsewhere").returncode == 0
    for command in ("render", "retry"):
        told = inside.run(command, manifest, "--limit", "1", "--in-process")
        assert "weights of wan are missing" in told.stderr
        # Found, and no tensors in them: the made-up bytes of this test.
        told = inside.run(command, manifest, "--in-process", "--models", "../elsewhere")
        assert "weights of wan are missing" not in told.stderr
