"""The rules of manifests: each one listed, each one shown, and none told that is not listed."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lynx_engine.errors import ErrorCode, Problem, RefusedError, nearest
from lynx_engine.manifest.files import MAX_MANIFEST_BYTES
from lynx_engine.manifest.guard import MAX_NODES
from lynx_engine.manifest.read import read_manifest
from lynx_engine.manifest_rules import Rule
from lynx_engine.planning import PhotoFacts, PlanFacts, plan_renders
from lynx_engine.preflight import face_problems
from lynx_engine.report.details import ADVICE
from lynx_engine.rules import Tries
from lynx_engine.settings import Settings
from lynx_engine.survey import gather_facts
from lynx_engine.variants import REGISTRY
from tests.support.photos import group_photo

ROOT = Path(__file__).parents[2]
README = (ROOT / "manifests/README.md").read_text(encoding="utf-8")
MANIFEST = """\
defaults: {{variant: {variant}}}
subjects: {{host: {{image: {image}, synthetic: true}}}}
identity: {{min_score: 0.5}}
rows: [{{subject: host, text: A person waves., loras: {loras}, safety: acknowledged-off}}]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(*, variant: str = "tiny", image: str = "host.png", loras: str = "[]") -> str:
    Path("m.yaml").write_text(MANIFEST.format(variant=variant, image=image, loras=loras))
    return "m.yaml"


def reading(name: str, data: bytes) -> tuple[Problem, ...]:
    Path(name).write_bytes(data)
    with pytest.raises(RefusedError) as caught:
        read_manifest(name)
    return caught.value.problems


def planning(
    path: str, *, only: tuple[tuple[str, str], ...] = (), **changes: object
) -> tuple[Problem, ...]:
    known = PlanFacts(
        today=date(2026, 11, 22),
        photos={"host": (PhotoFacts("d", 512, 512),)},
        weights=dict.fromkeys(REGISTRY, "w"),
        evaluator="dlib 20.0",
    )
    with pytest.raises(RefusedError) as caught:
        plan_renders(read_manifest(path), replace(known, **changes), only=only)
    return caught.value.problems


def surveyed(path: str) -> PlanFacts:
    return gather_facts(read_manifest(path), Settings(workspace=Path.cwd()))


def photos(*names: str) -> tuple[Problem, ...]:
    for name in names:
        shutil.copyfile(group_photo(), name)
    facts = surveyed(write(image=f"[{', '.join(names or ('gone.png',))}]"))
    return facts.photo_problems["host"]


def faces() -> tuple[Problem, ...]:
    Image.fromarray(np.full((256, 256, 3), 128, np.uint8)).save("host.png")
    path = write()
    return face_problems(read_manifest(path), surveyed(path))


BOMB = "\n".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9 if n else ['x'] * 9)}]"
                 for n in range(9))  # fmt: skip

# What no text of a manifest can show by itself.
MADE: dict[Rule, tuple[Callable[[], tuple[Problem, ...]], str]] = {
    Rule.FILE_TYPE: (lambda: reading("m.txt", b""), "rename the file [file-type]"),
    Rule.FILE_TOO_LARGE: (
        lambda: reading("m.csv", b"#" * (MAX_MANIFEST_BYTES + 1)),
        "m.csv: larger than 8 MB, the limit; split it [file-too-large]",
    ),
    Rule.ENCODING: (lambda: reading("m.csv", b"\xff"), "encoding UTF-8) [encoding]"),
    Rule.TOO_MANY_VALUES: (
        lambda: reading("m.yaml", BOMB.encode()), f"more than {MAX_NODES:,} values, aliases "
        "counted as often as they are used; write a matrix, or split the file [too-many-values]",
    ),
    Rule.SELECTION: (
        lambda: planning(write(), only=(("sbject", "host"),)),
        "--only: there is no field 'sbject', did you mean 'subject'? [selection]",
    ),
    Rule.WITHDRAWN_CONSENT: (
        lambda: planning(write(), withdrawn={"host": "subject 'host' withdrew consent"}),
        "m.yaml:2: subject 'host' withdrew consent [withdrawn-consent]",
    ),
    Rule.BAD_PHOTO: (photos, "it is read from the manifest's folder. [bad-photo]"),
    Rule.SAME_PHOTO: (
        lambda: photos("a.png", "b.png"), "which would count it double; remove one [same-photo]"
    ),
    Rule.BAD_FACE: (faces, "[bad-face]"),
    Rule.BAD_LORA: (
        lambda: planning(write(loras="[{weights: gone.st}]")),
        "m.yaml:4: LoRA gone.st cannot be read; check its path [bad-lora]",
    ),
    Rule.MISSING_WEIGHTS: (
        lambda: planning(
            write(variant="lynx_full"),
            weights_problems=surveyed(write(variant="lynx_full", image="gone.png"))
            .weights_problems,
        ),
        "[missing-weights]",
    ),
    Rule.SAME_RECOGNISER: (
        lambda: planning(write(variant="lynx_full"), evaluator="arcface 1"),
        "or remove identity [same-recogniser]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", MADE, ids=str)
def test_a_rule_that_no_text_can_show_is_told_when_it_is_broken(rule: Rule) -> None:
    make, ending = MADE[rule]
    (problem,) = make()
    assert problem.rule is rule
    assert str(problem).endswith(ending)


def test_every_rule_stands_in_the_table_and_is_shown_by_the_readme_or_made_here() -> None:
    table = README.split("| rule | broken when |\n|---|---|\n", 1)[1].split("\n\n", 1)[0]
    assert table.splitlines() == [f"| `{rule}` | {rule.meaning} |" for rule in Rule]
    # test_manifest_docs runs these examples.
    shown = set(re.findall(r"^manifest\..*\[([a-z0-9-]+)\]$", README, re.MULTILINE))
    assert shown | set(MADE) == {rule.value for rule in Rule}


@pytest.mark.parametrize(
    "path",
    [*Path(ROOT / "lynx_engine/manifest").glob("*.py"),
     *(ROOT / f"lynx_engine/{name}.py" for name in ("planning", "survey", "preflight"))],
    ids=lambda path: path.name,
)  # fmt: skip
def test_no_problem_of_a_manifest_is_made_without_its_rule(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            line = f"{path.name}:{node.lineno}"
            assert node.func.id != "Problem" or len(node.args) == 3, line
            assert node.func.id != "ValueError", f"{line}: a RuleError says which rule"


def test_every_code_of_a_failed_row_stands_in_the_table_with_its_retries_and_advice() -> None:
    heading = "| code | meaning | tried again | what to do |\n|---|---|---|---|\n"
    lines = README.split(heading, 1)[1].split("\n\n", 1)[0].splitlines()
    assert [line.split("`")[1] for line in lines] == list(ErrorCode)
    for code, line in zip(ErrorCode, lines, strict=True):
        _, _, meaning, again, advice, _ = (cell.strip() for cell in line.split("|"))
        assert meaning in " ".join(str(ErrorCode.__doc__).split())
        assert advice == ADVICE[code]
        at_once = Tries().after(code, transient=False)
        passing = again.startswith("after 1, 4 and 16 s")
        assert passing or (at_once is not None) == (again == "once, elsewhere")


@pytest.mark.parametrize(
    ("written", "known", "meant"),
    [
        ("bflot16", ("float32", "bfloat16"), "bfloat16"),
        ("BFLOAT16", ("float32", "bfloat16"), "bfloat16"),
        ("hots", ("host", "robo"), "host"),
        ("Host", ("host", "robo"), "host"),
        ("tiny-lite", REGISTRY, "tiny_lite"),
        ("lynxfull", REGISTRY, "lynx_full"),
        ("fp8", ("float32", "bfloat16"), ""),
        ("budget", ("subject", "seed", "size"), ""),
        ("x", ("subject", "seed", "size"), ""),
        ("一只狗", ("host", "robo"), ""),
    ],
)
def test_a_slip_of_the_keys_is_answered_with_the_nearest_name_and_nothing_far_off(
    written: str, known: tuple[str, ...], meant: str
) -> None:
    assert nearest(written, known) == (f", did you mean '{meant}'?" if meant else "")


def test_a_mistyped_choice_is_answered_with_the_choices_and_the_one_meant() -> None:
    problems = reading("m.yaml", b"rows: [{text: a, precision: bflot16}]")
    assert [str(problem) for problem in problems] == [
        "m.yaml:1: precision is 'bflot16'; it takes float32 or bfloat16, did you mean 'bfloat16'? "
        "[not-a-choice]"
    ]
