"""The README's commands are run, and print what it says; its Python and manifest work."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lynx_engine.cli.app import app
from lynx_engine.manifest.read import read_manifest
from lynx_engine.settings import Settings
from lynx_engine.variants.spec import VariantSpec
from tests.support.workspaces import COMMAND, Workspace

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [str(command.name) for command in app.registered_commands]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def sessions(block: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with what it prints."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(command, printed) for command, _, printed in (p.partition("\n") for p in parts)]


def matches(shown: str, printed: str) -> bool:
    """Whether `printed` is what the README shows: … stands for any text, alone for any lines."""
    pattern = "".join(
        r"(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".*") + r"\n"
        for line in shown.splitlines()
    )
    return re.fullmatch(pattern, printed) is not None


def test_matcher_tells_right_from_wrong() -> None:
    assert matches("a … c\n…\nend\n", "a b c\n1\n2\nend\n")
    assert not matches("a … c\n", "a b d\n")
    assert not matches("…\nend\n", "1\nend\nmore\n")


def test_quick_start_prints_what_the_readme_says(tmp_path: Path, cache: Path) -> None:
    ((command, shown),) = sessions(blocks("console")[0])
    assert command == "make demo"
    recipe = (ROOT / "Makefile").read_text()
    assert "$(BIN)/lynx-engine render manifests/quickstart.yaml" in recipe
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    done = Workspace(tmp_path, {"LYNX_CACHE": str(cache)}).run(
        "render", "manifests/quickstart.yaml"
    )
    assert done.returncode == 0
    assert matches(shown, done.stderr + done.stdout), done.stderr + done.stdout


def test_installed_session_prints_what_the_readme_says(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path
    run_commands = 0
    for command, shown in sessions(blocks("console")[1]):
        words = shlex.split(command)
        if words[0] == "cd":
            folder = folder / words[1]
            continue
        assert words[0] == "lynx-engine"
        done = Workspace(folder, {"LYNX_CACHE": str(cache)}).run(*words[1:])
        assert done.returncode == 0, done.stderr
        assert matches(shown, done.stderr + done.stdout), done.stderr + done.stdout
        run_commands += 1
    assert run_commands == 5


def test_manifest_of_the_readme_is_read(tmp_path: Path) -> None:
    (manifest,) = blocks("yaml")
    (tmp_path / "m.yaml").write_text(manifest)
    assert len(read_manifest(tmp_path / "m.yaml").rows) == 20
    assert len(manifest.splitlines()) <= 10


def test_python_of_the_readme_runs(tmp_path: Path, cache: Path) -> None:
    program = next(block for block in blocks("python") if "read_manifest" in block)
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    one_clip = program.replace("gather_facts(manifest))", "gather_facts(manifest), limit=1)")
    assert one_clip != program
    body = "\n".join(f"    {line}" for line in one_clip.splitlines())
    script = tmp_path / "script.py"
    script.write_text(f'if __name__ == "__main__":\n{body}\n')
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=Workspace(tmp_path, {"LYNX_CACHE": str(cache)}).environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1\n")
    assert "total_s" in done.stdout


def test_variant_of_the_readme_is_a_variant() -> None:
    program = next(block for block in blocks("python") if "SPEC" in block)
    scope: dict[str, object] = {}
    exec(program, scope)
    spec = scope["SPEC"]
    assert isinstance(spec, VariantSpec)
    assert spec.adapters == "mine"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme_and_has_an_example(command: str) -> None:
    assert f"| `{command}" in README
    told = subprocess.run([COMMAND, command, "--help"], capture_output=True, text=True, check=True)
    plain = " ".join(told.stdout.replace("│", " ").split())
    assert f"Example: lynx-engine {command}" in plain
    assert "--json" in plain


@pytest.mark.parametrize("name", sorted(Settings.model_fields.keys() - {"workspace"}))
def test_every_setting_is_in_the_readme(name: str) -> None:
    assert f"`LYNX_{name.upper()}`" in README


def test_every_folder_of_the_map_is_there_and_no_package_is_missing() -> None:
    mapped = set(re.findall(r"`((?:lynx_engine|flows|tests)(?:/[a-z_]+)?)/`", README))
    assert all((ROOT / folder).is_dir() for folder in mapped)
    packages = {
        f"lynx_engine/{p.parent.name}" for p in (ROOT / "lynx_engine").glob("*/__init__.py")
    }
    assert packages <= mapped


def test_nothing_in_the_repository_points_to_places_users_do_not_have() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    texts = [
        ROOT / name for name in listed if Path(name).suffix in {".py", ".md", ".toml", ".yaml"}
    ]
    assert len(texts) > 100
    hidden = "../" + "shared"
    assert [p for p in texts if hidden in p.read_text(encoding="utf-8", errors="replace")] == []
