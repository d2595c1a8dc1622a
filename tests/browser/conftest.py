"""One browser a test process, and pages that are made once for all processes."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from lynx_engine.report.html import write_report
from lynx_engine.settings import Settings
from tests.support.browser import chromium
from tests.support.jobs import astronaut
from tests.support.logs import hostile_night, make_media, night, place_media, write_log
from tests.support.renders import REPOSITORY
from tests.support.workspaces import Workspace

MADE = """\
campaign: real
defaults: {size: 64x64, frames: 17, steps: 2}
subjects:
  host: {image: one.png, consent: {basis: public-domain}}
prompts: {wave: A person waves., walk: A person walks along the beach.}
matrix:
  - {subject: host, prompt: [wave, walk], seed: 1, variant: [tiny, tiny_lite]}
rows:
  - {text: "fault=memory <script>alert(1)</script>", variant: sleeper, seed: 3}
  - {text: "red=2", variant: people, seed: 4}
"""
GATED = """\
campaign: real
defaults: {variant: faces, frames: 9, size: 256x256}
identity: {min_score: 0.4}
subjects:
  host: {image: one.png, consent: {basis: public-domain}}
prompts: {drift: drifting, other: wrong}
matrix:
  - {subject: host, prompt: [drift, other], seed: 5}
"""
_REGISTER = """
from lynx_engine.variants import REGISTRY
REGISTRY["people"] = "tests.support.people"
REGISTRY["faces"] = "tests.support.faces"
"""


# Not the session's: while Playwright's loop runs, Prefect's and Dask's tests could not run theirs.
@pytest.fixture(scope="package")
def browser() -> Generator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Make a folder once for all of xdist's processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder = shared / name
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (shared / f"{name}.made").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                (shared / f"{name}.made").touch()
        return folder

    return make


Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def studio(once: Once) -> Workspace:
    """A workspace whose campaign `real` was rendered by the installed command."""
    variables = {"LYNX_EVALUATOR": "dlib"}

    def workspace_of(folder: Path) -> Workspace:
        paths = {"PYTHONPATH": f"{folder / 'site'}:{REPOSITORY}"}
        return Workspace(folder / "studio", {**variables, **paths, "LYNX_CACHE": f"{folder}/cache"})

    def render(folder: Path) -> None:
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(_REGISTER)
        workspace = workspace_of(folder)
        workspace.write("lynx.toml", 'classifiers = ["tests.support.classifiers:load_red"]\n')
        shutil.copyfile(astronaut(), workspace.folder / "one.png")
        for name, manifest in {"made.yaml": MADE, "gated.yaml": GATED}.items():
            workspace.write(name, manifest)
            done = workspace.run("render", name, "--in-process", "--quiet")
            assert done.returncode == 1, done.stderr

    return workspace_of(once("real", render))


@pytest.fixture(scope="session")
def thousand(once: Once) -> Path:
    """The report of a thousand clips that were not rendered."""

    def fill(folder: Path) -> None:
        media = make_media(folder / "media")
        records = night("thousand", 1000, media)
        campaign = folder / "outputs" / "thousand"
        write_log(campaign, records)
        place_media(campaign, records, media)
        write_report("thousand", settings=Settings(workspace=folder))

    return once("thousand", fill) / "outputs" / "thousand" / "report.html"


@pytest.fixture(scope="session")
def hostile(once: Once) -> Path:
    """The report of rows whose every text is hostile."""

    def fill(folder: Path) -> None:
        media = make_media(folder / "media")
        records = hostile_night("hostile", media)
        campaign = folder / "outputs" / "hostile"
        write_log(campaign, records)
        place_media(campaign, records, media)
        write_report("hostile", settings=Settings(workspace=folder))

    return once("hostile", fill) / "outputs" / "hostile" / "report.html"
