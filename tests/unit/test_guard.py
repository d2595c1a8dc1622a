"""The guard over YAML's parse events: what it refuses, with which line, and how fast."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lynx_engine.errors import RefusedError
from lynx_engine.manifest.guard import MAX_DEPTH, MAX_NODES, guarded_events
from lynx_engine.manifest.yaml_lines import line_at, load_yaml
from tests.support.letters import in_words
from tests.support.pace import Stopwatch

# 10^9 values in 386 bytes or so: ten lists, each repeating the one before ten times.
ALIAS_BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
MERGE_BOMB = "a0: &a0 {k0: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}\n" for n in range(1, 40)
)


def letters(text: str) -> list[str]:
    with pytest.raises(RefusedError) as caught:
        load_yaml(text, "m.yaml")
    return [in_words(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "[{a: "])
def test_thirty_thousand_nested_collections_are_refused_in_this_process(opening: str) -> None:
    watch = Stopwatch()
    found = letters(opening * 30_000)
    assert found == [f"m.yaml:1: nested deeper than {MAX_DEPTH} levels; a manifest needs six"]
    assert watch.idle_s() < 0.5


def test_the_composer_we_do_not_use_dies_of_the_same_brackets() -> None:
    # The reason for the guard; were PyYAML mended, this test would say so.
    code = "import yaml; yaml.load('[' * 30000, Loader=yaml.CSafeLoader)"
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode
        != 0
    )


def test_depth_32_is_accepted_and_33_is_not() -> None:
    assert load_yaml("[" * 32 + "]" * 32, "m.yaml").value is not None
    assert "deeper than 32" in letters("[" * 33 + "]" * 33)[0]


def test_an_alias_bomb_is_refused_in_milliseconds_at_the_line_that_passes_the_limit() -> None:
    watch = Stopwatch()
    found = letters(ALIAS_BOMB)
    assert watch.idle_s() < 0.1
    # Line n holds about 10^n values; the sum first passes two million in line 7.
    assert found == [
        f"m.yaml:7: more than {MAX_NODES:,} values, aliases counted as often as they are used; "
        "write a matrix, or split the file"
    ]


def test_merge_keys_are_refused_before_anything_is_merged() -> None:
    watch = Stopwatch()
    found = letters(MERGE_BOMB)
    assert watch.idle_s() < 0.1
    assert found[0] == (
        "m.yaml:2: merge keys (<<) are refused; write shared settings once under defaults"
    )
    assert "more than 2,000,000 values" in found[-1]


def test_an_alias_used_once_gives_the_value_it_names() -> None:
    loaded = load_yaml("a: &x [1, 2]\nb: *x\n", "m.yaml")
    assert loaded.value == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("a: 1\nb: 2\na: 3", "m.yaml:3: 'a' is written twice, here and at line 1; delete one"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "m.yaml:1: tag !!python/object/apply:os.system is refused; a manifest holds plain "
            "values only",
        ),
        ("a: !mine 1", "m.yaml:1: tag !mine is refused; a manifest holds plain values only"),
        ("a:\n  no: 1", 'm.yaml:2: the key no is not read as text by YAML; quote it: "no"'),
        ("a:\n  ?\n  : 1", "m.yaml:2: a key is missing before the colon; write it"),
        ("a: &x [*x]", "m.yaml:1: *x stands inside what it repeats; write the value out"),
        ("a: *x", "m.yaml:1: *x repeats nothing; write &x before it, or a value"),
        ("? [a]\n: 1", "m.yaml:1: a key must be a word; this one is a list or a mapping"),
        ("a: 1\n---\nb: 1", "m.yaml:2: a second document begins here; keep one in each file"),
        ("a: [1\n", "m.yaml:2: not valid YAML: while parsing a flow sequence, did not find "
         "expected ',' or ']'"),
        ("a: 1\nb: \x07", "m.yaml:2: not valid YAML: control characters are not allowed"),
        ("# nothing\n", "m.yaml:1: the file is empty; it needs subjects, prompts and rows"),
    ],
)  # fmt: skip
def test_each_fault_is_named_with_its_line(text: str, letter: str) -> None:
    assert letters(text) == [letter]


def test_several_faults_are_told_together_in_the_order_of_the_file() -> None:
    found = letters("a: !x 1\nb: {<<: 1}\na: 2\n")
    assert [line.split(":")[1] for line in found] == ["1", "2", "3"]


def test_an_alias_may_repeat_a_scalar_or_a_key() -> None:
    loaded = load_yaml("&k a: &v 5\nb: *v\nc: *k", "m.yaml")
    assert loaded.value == {"a": 5, "b": 5, "c": "a"}


def test_core_tags_are_accepted() -> None:
    assert load_yaml('a: !!str 42\nb: !!int "7"', "m.yaml").value == {"a": "42", "b": 7}


def test_events_are_handed_on_unchanged() -> None:
    names = [type(event).__name__ for event in guarded_events("[a]", "m.yaml")]
    assert names == [
        "StreamStartEvent",
        "DocumentStartEvent",
        "SequenceStartEvent",
        "ScalarEvent",
        "SequenceEndEvent",
        "DocumentEndEvent",
        "StreamEndEvent",
    ]


def test_lines_are_known_for_every_key_and_item() -> None:
    loaded = load_yaml("a:\n  - x: 1\n    y: 2\n  - z\n", "m.yaml")
    assert line_at(loaded.lines, ("a", 0, "y")) == 3
    assert line_at(loaded.lines, ("a", 1)) == 4
    assert line_at(loaded.lines, ("a", 0, "absent")) == 2
    assert line_at(loaded.lines, ()) == 1
