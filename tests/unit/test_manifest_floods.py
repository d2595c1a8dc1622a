"""Files that say one wrong thing very often: refused in moments, and told once or counted.

Each was found by fuzzing, and took between ten seconds and minutes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lynx_engine import survey
from lynx_engine.errors import Problem, RefusedError
from lynx_engine.manifest.read import read_manifest
from lynx_engine.manifest.tables import COLUMNS
from lynx_engine.manifest_rules import Rule
from lynx_engine.media.images import PhotoHeader
from tests.support.jobs import astronaut
from tests.support.pace import Stopwatch

HEAD = "defaults: {variant: sleeper}\n"


def refusal(path: Path, text: str) -> tuple[list[str], list[Rule | None], float]:
    """Write a manifest; return its problems, their rules, and the seconds until it is refused."""
    path.write_text(text, encoding="utf-8")
    watch = Stopwatch()
    with pytest.raises(RefusedError) as caught:
        read_manifest(path)
    idle_s = watch.idle_s()
    problems = caught.value.problems
    told = [str(problem).removeprefix(str(path)) for problem in problems]
    return told, [problem.rule for problem in problems], idle_s


def test_many_directives_are_refused_before_any_is_parsed(tmp_path: Path) -> None:
    tags = "".join(f"%TAG !a{n}! x\n" for n in range(100_000))
    told, rules, idle_s = refusal(tmp_path / "m.yaml", f"{tags}---\n{HEAD}rows: [{{text: x}}]\n")

    assert told == [":11: more than 10 lines begin with %; a manifest needs none [not-yaml]"]
    assert rules == [Rule.NOT_YAML]
    assert idle_s < 1


def test_few_directives_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(f"%YAML 1.1\n---\n{HEAD}rows: [{{text: sleep=1}}]\n", encoding="utf-8")

    assert len(read_manifest(path).rows) == 1


def test_one_key_written_a_million_times_ends_the_reading_after_a_thousand(tmp_path: Path) -> None:
    told, rules, idle_s = refusal(tmp_path / "m.yaml", "a: 1\n" * 1_000_000)

    assert len(told) == 1000
    assert set(rules) == {Rule.DUPLICATE_KEY}
    assert told[0] == ":2: 'a' is written twice, here and at line 1; delete one [duplicate-key]"
    assert told[-1].endswith("delete one. The rest of the file was not read [duplicate-key]")
    assert idle_s < 1


def test_row_of_many_unknown_keys_tells_the_first_and_counts_the_rest(tmp_path: Path) -> None:
    keys = ", ".join(f"seed{n}: 1" for n in range(20_000))
    told, rules, idle_s = refusal(tmp_path / "m.yaml", f"{HEAD}rows: [{{text: x, {keys}}}]\n")

    assert sum("did you mean 'seed'?" in text for text in told) == 1000
    assert ":2: 19,000 more unknown keys from here on; remove them [unknown-key]" in told
    assert rules == [Rule.UNKNOWN_KEY] * 1001
    assert idle_s < 2


@pytest.mark.parametrize(("keys", "rule"), [(100_000, None), (100_001, Rule.TOO_MANY_VALUES)])
def test_mapping_of_more_keys_than_there_may_be_rows_ends_the_reading(
    tmp_path: Path, keys: int, rule: Rule | None
) -> None:
    path = tmp_path / "m.yaml"
    prompts = "".join(f" p{n}: x\n" for n in range(keys))
    path.write_text(f"{HEAD}rows: [{{text: sleep=1}}]\nprompts:\n{prompts}", encoding="utf-8")
    manifest = None
    problems: tuple[Problem, ...] = ()
    try:
        manifest = read_manifest(path)
    except RefusedError as error:
        problems = error.problems

    assert [problem.rule for problem in problems] == ([rule] if rule else [])
    assert (manifest is None) == (rule is not None)


def test_rows_with_an_unknown_key_each_are_all_told_the_first_with_the_nearest(
    tmp_path: Path,
) -> None:
    rows = "".join(f"- {{text: x, seed{n}: 1}}\n" for n in range(2_000))
    told, rules, _ = refusal(tmp_path / "m.yaml", f"{HEAD}rows:\n{rows}")

    assert rules == [Rule.UNKNOWN_KEY] * 2_000
    assert sum("did you mean 'seed'?" in text for text in told) == 1000


def test_header_of_many_columns_is_counted(tmp_path: Path) -> None:
    told, rules, idle_s = refusal(tmp_path / "m.csv", ",".join(["seed"] * 700_000) + "\n")

    known = len(COLUMNS)
    assert told == [
        f":1: the header names 700,000 columns; there are {known} to choose from [header]"
    ]
    assert rules == [Rule.HEADER]
    assert idle_s < 2


def test_line_of_many_unknown_keys_names_the_first_and_counts_the_rest(tmp_path: Path) -> None:
    keys = ", ".join(f'"k{n}": 1' for n in range(100_000))
    told, rules, idle_s = refusal(tmp_path / "m.jsonl", f'{{"prompt": "x", {keys}}}\n')

    assert len(told) == 1
    assert told[0].startswith(":1: unknown key 'k0'; remove it and 'k1'; remove it")
    assert told[0].endswith("and 'k19'; remove it and 99,980 more [unknown-key]")
    assert rules == [Rule.UNKNOWN_KEY]
    assert idle_s < 2


def test_last_key_of_many_written_twice_is_found_in_moments(tmp_path: Path) -> None:
    keys = ", ".join(f'"k{n}": 1' for n in range(100_000))
    told, _, idle_s = refusal(tmp_path / "m.jsonl", f'{{{keys}, "k99999": 2}}\n')

    assert told == [":1: 'k99999' is written twice in this row; delete one [duplicate-key]"]
    assert idle_s < 2


def test_photo_that_many_subjects_share_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(astronaut(), tmp_path / "one.png")
    names = [f"s{n}" for n in range(50)]
    subjects = ", ".join(f"{name}: {{image: one.png, synthetic: true}}" for name in names)
    path = tmp_path / "m.yaml"
    path.write_text(f"{HEAD}subjects: {{{subjects}}}\nrows: [{{text: sleep=1}}]\n")
    looked: list[Path] = []
    read: Callable[[Path], PhotoHeader] = survey.inspect_photo

    def count(photo: Path) -> PhotoHeader:
        looked.append(photo)
        return read(photo)

    monkeypatch.setattr(survey, "inspect_photo", count)
    facts = survey.gather_facts(read_manifest(path))

    assert sorted(facts.photos) == sorted(names)
    assert looked == [tmp_path / "one.png"]
