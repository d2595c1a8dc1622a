"""The quick start as a newcomer runs it: through Prefect and a Dask worker, in its own folder."""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from lynx_engine.media.video import find_ffmpeg
from tests.support.pace import slowness
from tests.support.workspaces import Workspace

MANIFEST = "manifests/quickstart.yaml"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Workspace:
    """A workspace made by `init` in which the quick start was rendered once."""
    home = Workspace(tmp_path_factory.mktemp("home"), {"LYNX_CACHE": str(cache)})
    made = home.run("init", "studio")
    assert made.returncode == 0, made.stderr
    studio = Workspace(home.folder / "studio", home.variables)
    done = studio.run("render", MANIFEST)
    assert done.returncode == 0, done.stderr
    assert "quickstart: 8 rendered" in done.stdout
    assert done.stderr.count("rendered astronaut-") == 8
    return studio


def decoded(clip: Path) -> np.ndarray:
    command = [find_ffmpeg(), "-v", "error", "-i", str(clip)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, 64, 64, 3)


def test_eight_clips_decode_to_eight_different_moving_pictures(studio: Workspace) -> None:
    films = [decoded(clip) for clip in studio.clips("quickstart")]
    assert [film.shape for film in films] == [(9, 64, 64, 3)] * 8
    for index, film in enumerate(films):
        assert film.std() > 20, "a picture has contrast"
        assert np.abs(np.diff(film.astype(int), axis=0)).mean() > 1, "a clip moves"
        for other in films[:index]:
            assert np.abs(film.astype(int) - other).mean() > 5


def test_each_clip_has_one_record_that_agrees_with_the_file(studio: Workspace) -> None:
    records = studio.json("log", "quickstart")
    assert len(records) == 8
    assert len(studio.parts("quickstart")) == 1, "folded at the end of the run"
    by_clip = {record["clip"]: record for record in records}
    for clip in studio.clips("quickstart"):
        record = by_clip[clip.name]
        assert record["status"] == "rendered"
        assert record["clip_bytes"] == clip.stat().st_size
        assert (record["clip_frames"], record["clip_fps"], record["size"]) == (9, 8.0, "64x64")
        assert record["consent"] == "public-domain"
        assert record["attention_backend"] != ""
        assert json.loads(record["weights"])[
            "lynx_full/resampler.safetensors"
            if record["variant"] == "tiny"
            else "lynx_lite/resampler.safetensors"
        ]


def test_model_loads_once_a_variant_and_texts_and_faces_once(studio: Workspace) -> None:
    records = studio.json("log", "quickstart")
    loads = [record["variant"] for record in records if record["load_s"] > 0]
    assert sorted(loads) == ["tiny", "tiny_lite"]


RERUN = """
import atexit, sys
heavy = {"torch", "diffusers", "transformers", "prefect", "dask", "distributed", "cv2"}
atexit.register(lambda: print("LOADED", sorted(heavy & set(sys.modules)), file=sys.stderr))
from lynx_engine.cli.app import main
sys.argv = ["lynx-engine", "render", "manifests/quickstart.yaml"]
main()
"""


def test_second_run_renders_nothing_and_starts_nothing(studio: Workspace) -> None:
    before = studio.parts("quickstart")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", RERUN],
        cwd=studio.folder,
        env=studio.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    took = resource.getrusage(resource.RUSAGE_CHILDREN)
    took_s = took.ru_utime + took.ru_stime - used.ru_utime - used.ru_stime
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("quickstart: nothing to do; 8 clips are done.")
    assert "LOADED []" in done.stderr
    assert studio.parts("quickstart") == before
    # Of the processor: others may use it, too, while this runs.
    assert took_s / slowness() <= 3.0


def test_prefects_database_is_made_once_a_machine(studio: Workspace, cache: Path) -> None:
    (copy,) = cache.glob("prefect-*.db")
    with (
        closing(sqlite3.connect(copy)) as kept,
        closing(sqlite3.connect(database_of(studio))) as own,
    ):
        assert runs_in(kept) == 0, "kept before any run was in it"
        assert runs_in(own) == 1


def database_of(studio: Workspace) -> Path:
    return studio.folder / ".lynx" / "prefect" / "quickstart" / "prefect.db"


def runs_in(database: sqlite3.Connection) -> int:
    return database.execute("SELECT count(*) FROM flow_run").fetchone()[0]


def test_clips_are_the_same_in_another_folder_and_process(
    studio: Workspace, tmp_path: Path
) -> None:
    other = Workspace(tmp_path, studio.variables)
    assert other.run("init").returncode == 0
    done = other.run("render", MANIFEST, "--in-process", "--only", "prompt=beach")
    assert done.returncode == 0, done.stderr
    first = {clip.name: decoded(clip) for clip in studio.clips("quickstart")}
    again = {clip.name: decoded(clip) for clip in other.clips("quickstart")}
    assert len(again) == 4
    for name, film in again.items():
        assert np.array_equal(film, first[name])


def test_csv_quickstart_asks_for_the_same_clips(studio: Workspace) -> None:
    table = studio.json("plan", "manifests/quickstart.csv")
    assert len(table["to_run"]) == 0
    assert len(table["done"]) == 8


def test_edited_prompt_renders_exactly_its_clips_and_says_why(
    studio: Workspace, tmp_path: Path
) -> None:
    import shutil

    copy = Workspace(tmp_path / "copy", studio.variables)
    shutil.copytree(studio.folder, copy.folder)
    manifest = copy.folder / MANIFEST
    manifest.write_text(manifest.read_text().replace("at sunrise", "at sunset"))
    plan = copy.json("plan", MANIFEST)
    assert {row["why"] for row in plan["to_run"]} == {
        "changed: prompt 'A person walks along a beach at sunrise.'"
        " -> 'A person walks along a beach at sunset.'"
    }
    assert len(plan["done"]) == 4
    done = copy.run("render", MANIFEST, "--in-process")
    assert "4 rendered, 4 done before" in done.stdout
    assert len(copy.clips("quickstart")) == 12
    assert copy.json("plan", MANIFEST)["to_run"] == []


def test_deleted_clip_renders_again_and_says_so(studio: Workspace, tmp_path: Path) -> None:
    import shutil

    copy = Workspace(tmp_path / "copy", studio.variables)
    shutil.copytree(studio.folder, copy.folder)
    gone = copy.clips("quickstart")[3]
    gone.unlink()
    (row,) = copy.json("plan", MANIFEST)["to_run"]
    assert row["clip"] == gone.name
    assert row["reason"] == "missing clip"


def test_show_finds_a_renamed_copy_by_its_content(studio: Workspace, tmp_path: Path) -> None:
    clip = studio.clips("quickstart")[0]
    copy = tmp_path / "from a friend.mp4"
    copy.write_bytes(clip.read_bytes())
    (record,) = studio.json("show", copy)
    assert record["clip"] == clip.name
    (same,) = studio.json("show", record["job_id"][:8])
    assert same == record


def test_status_counts_what_the_log_holds(studio: Workspace) -> None:
    told = studio.json("status")
    assert told["campaigns"]["quickstart"]["rendered"] == 8
    assert told["failures"] == []


def test_init_never_overwrites(studio: Workspace) -> None:
    done = studio.run("init")
    assert done.returncode == 2
    assert "manifests: is already there; name another folder" in done.stderr


def test_unknown_campaign_names_the_command_that_lists_them(studio: Workspace) -> None:
    done = studio.run("report", "autumn")
    assert done.returncode == 2
    assert "`lynx-engine status` lists those that are there" in done.stderr


def test_states_of_prefect_are_those_of_the_rows(studio: Workspace) -> None:
    import sqlite3

    database = studio.folder / ".lynx" / "prefect" / "quickstart" / "prefect.db"
    with sqlite3.connect(database) as connection:
        flows = connection.execute("select name, state_name from flow_run").fetchall()
        tasks = dict(connection.execute("select name, state_name from task_run").fetchall())
    assert flows == [("quickstart", "Completed")]
    for clip in studio.clips("quickstart"):
        assert tasks[f"render {clip.name}"] == "Completed"
    assert len(tasks) == 8


def test_nothing_of_the_photo_reaches_prefect_or_the_log_file(studio: Workspace) -> None:
    from lynx_engine.media.images import inspect_photo

    digest = inspect_photo(studio.folder / "manifests/subjects/astronaut.png").digest.encode()
    places = [
        *(studio.folder / ".lynx").rglob("*"),
        *(studio.folder / "outputs").rglob("*"),
    ]
    searched = [path for path in places if path.is_file()]
    assert len(searched) > 10
    assert [path for path in searched if digest in path.read_bytes()] == []
