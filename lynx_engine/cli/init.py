"""`lynx-engine init`: a workspace with a campaign that runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lynx_engine.cli.options import JsonOption

EXAMPLE = "Example: lynx-engine init studio"

_SETTINGS = """# Settings of this workspace; LYNX_MODELS and so on in the environment win over them.
# models = "models"        # weights of the big variants, in the public layout
# model_paths = {lynx_full = "/weights/lynx_full"}   # entries of that layout that lie elsewhere
# github = "https://github.com"   # where `models pull` fetches the face recogniser
# outputs = "outputs"      # clips and their log
# state = ".lynx"          # Prefect's files and the workspace key
# cache = "/somewhere"     # weights of the tiny variants; ~/.cache/lynx_engine by default
# threads = 1              # CPU threads of a device process; another number rounds differently
# attention = "auto"       # attention backend: auto, native, cudnn, flash or flash3
# compile = "auto"         # compile the transformer's blocks: auto (on a GPU), on or off
# server_start_s = 90      # seconds the local Prefect server may take to start
# worker_start_s = 120     # seconds a device process may take to say hello
# deadline_s = 1800        # seconds without a sign of life before any step alike was measured
# deadline_floor_s = 60    # seconds without a sign of life that are always allowed
# disk_check = true        # refuse a run whose clips would not find room on the disk
# consent = "required"     # rows without a consent that holds: required (refused), warn or off
# evaluator = "auto"       # who scores likeness: auto, insightface, dlib, none, or module:function
# classifiers = "auto"     # who looks at finished frames: auto, none, or opennsfw, falconsai,
#                          # module:function; opennsfw@0.5 is stricter than opennsfw
# face_days = 30           # days that what was computed of a face is kept
# producer = "lynx_engine" # who makes the clips, as their metadata says
# credentials = "credentials"  # folder of the certificates that sign clips; none by default
# timestamps = ""          # address of a time-stamp authority (RFC 3161) for signed clips
# report = true            # write report.html at the end of each run
# report_photos = false    # show a crop of each subject's photo in the report
"""


def command(
    folder: Annotated[Path, typer.Argument(help="Where to make the workspace.")] = Path(),
    json: JsonOption = False,
) -> None:
    """Make a workspace: settings, example manifests, a photo. Nothing is overwritten."""
    from lynx_engine.cli.console import say, say_json
    from lynx_engine.errors import Problem, RefusedError
    from lynx_engine.settings import WORKSPACE_FILE

    targets = (folder / WORKSPACE_FILE, folder / "manifests")
    there = [
        Problem(str(path), "is already there; name another folder, as in lynx-engine init studio")
        for path in targets
        if path.exists()
    ]
    if there:
        raise RefusedError(there, outcome="nothing was made")
    folder.mkdir(parents=True, exist_ok=True)
    _copy_contents(_examples(), folder / "manifests")
    (folder / WORKSPACE_FILE).write_text(_SETTINGS, encoding="utf-8")
    go = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    command_line = f"{go}lynx-engine render manifests/quickstart.yaml"
    if json:
        say_json({"workspace": str(folder.resolve()), "next": command_line})
    else:
        say(f"Made {folder / 'manifests'} and {folder / WORKSPACE_FILE}. Next: {command_line}")


def _copy_contents(source: Path, target: Path) -> None:
    """Copy a folder's contents, not its modes: an installed one may be read-only, a copy is not."""
    import shutil

    target.mkdir()
    for path in source.iterdir():
        if path.is_dir():
            _copy_contents(path, target / path.name)
        else:
            shutil.copyfile(path, target / path.name)


def _examples() -> Path:
    """Return the example manifests: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "scaffold"
    return packed if packed.is_dir() else package.parent / "manifests"
