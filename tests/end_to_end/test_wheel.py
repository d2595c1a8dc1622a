"""A wheel, built and installed into a fresh environment, works from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_both_packages_the_examples_and_the_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "lynx_engine/cli/app.py",
        "flows/render_campaign.py",
        "lynx_engine/media/fonts/lynx_label.ttf",
        "lynx_engine/media/fonts/OFL.txt",
        "lynx_engine/scaffold/quickstart.yaml",
        "lynx_engine/scaffold/subjects/astronaut.png",
        "lynx_engine/scaffold/manifest.schema.json",
    ):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "docs", "outputs")) for name in names)


def test_installed_wheel_renders_from_another_folder_through_prefect(
    wheel: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "fresh env"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel],
        check=True,
        timeout=120,
    )
    # The dependencies are those of the test environment, seen through a path file: its editable
    # install of this very package is not, because path files do not nest.
    packages = next((environment / "lib").glob("python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    variables = {k: v for k, v in os.environ.items() if not k.startswith(("LYNX_", "PREFECT_"))}
    variables |= {"HOME": str(tmp_path / "hömé"), "XDG_CACHE_HOME": "", "PYTHONPATH": ""}
    # A proxy that leads nowhere: the Prefect server of the run is on this machine, not behind it.
    variables = {k: v for k, v in variables.items() if k.lower() != "no_proxy"}
    variables |= {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    (tmp_path / "hömé").mkdir()

    def run(*arguments: str) -> str:
        command = [environment / "bin" / "lynx-engine", *arguments]
        done = subprocess.run(
            command,
            cwd=tmp_path / "hömé",
            env=variables,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [python, "-c", "import lynx_engine, flows; print(lynx_engine.__file__, flows.__file__)"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where.count(str(packages)) == 2

    run("init", "my studio")
    told = run("render", "my studio/manifests/quickstart.yaml", "--only", "variant=tiny_lite")
    assert "quickstart: 4 rendered" in told
    clips = list((tmp_path / "hömé/my studio/outputs/quickstart/clips").glob("*.mp4"))
    assert len(clips) == 4
    assert (tmp_path / "hömé/.cache/lynx_engine/tiny-1").is_dir()
