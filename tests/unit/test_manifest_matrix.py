"""The matrix: products, pairs, exclusions, seed ranges, and the count before expansion."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from lynx_engine.errors import RefusedError
from lynx_engine.manifest.matrix_schema import read_seeds
from lynx_engine.manifest.read import read_manifest
from lynx_engine.manifest.values import Row
from tests.support.letters import in_words
from tests.support.pace import Stopwatch

HEAD = """\
subjects:
  a: {image: a.png, synthetic: true}
  b: {image: b.png, synthetic: true}
prompts: {p: First., q: Second., lines: {file: lines.txt}}
matrix:
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines.txt").write_text("one\ntwo\n")


def rows(*entries: str) -> tuple[Row, ...]:
    Path("m.yaml").write_text(HEAD + "".join(f"  - {entry}\n" for entry in entries))
    return read_manifest("m.yaml").rows


def letter(*entries: str) -> str:
    with pytest.raises(RefusedError) as caught:
        rows(*entries)
    return "\n".join(in_words(problem) for problem in caught.value.problems)


def test_a_matrix_is_the_product_of_its_lists_the_first_key_slowest() -> None:
    found = rows("{subject: [a, b], prompt: [p, q], seed: 1..3, variant: [tiny, tiny_lite]}")
    expected = itertools.product("ab", "pq", [1, 2, 3], ["tiny", "tiny_lite"])
    assert [(r.subject, r.prompt.name, r.seed, r.settings.variant) for r in found] == list(expected)
    assert {row.where for row in found} == {"m.yaml:6"}


def test_single_values_need_no_list_and_settings_multiply_too() -> None:
    found = rows("{subject: a, text: Hi., seed: 4, steps: [2, 4], video: {crf: 20}}")
    assert [(r.settings.steps, r.settings.video_crf, r.seed) for r in found] == [
        (2, 20, 4),
        (4, 20, 4),
    ]


def test_zip_pairs_lists_and_a_prompt_file_opens_after_pairing() -> None:
    found = rows("{subject: [a, b], prompt: [p, lines], zip: [subject, prompt], seed: [5, 6]}")
    assert [(r.subject, r.prompt.name, r.seed) for r in found] == [
        ("a", "p", 5), ("a", "p", 6),
        ("b", "lines-1", 5), ("b", "lines-1", 6),
        ("b", "lines-2", 5), ("b", "lines-2", 6),
    ]  # fmt: skip


def test_exclude_drops_what_agrees_with_all_its_keys() -> None:
    found = rows(
        "{subject: [a, b], prompt: [p, lines], seed: 1..2, "
        "exclude: [{subject: b, prompt: lines}, {prompt: lines-2, seed: 2}, "
        "{subject: [a], seed: 1..1}]}"
    )
    assert [(r.subject, r.prompt.name, r.seed) for r in found] == [
        ("a", "p", 2), ("a", "lines-1", 2), ("b", "p", 1), ("b", "p", 2),
    ]  # fmt: skip


def test_seeds_are_numbers_ranges_and_lists_of_both() -> None:
    assert read_seeds(7) == (range(7, 8),)
    assert read_seeds("1..5") == (range(1, 6),)
    assert read_seeds([3, "8..9"]) == (range(3, 4), range(8, 10))
    assert read_seeds(f"{2**63 - 2}..{2**63 - 1}")[0].stop == 2**63


@pytest.mark.parametrize("wrong", ["5", "1...5", "a..b", "01..5", -1, 2**63, True, None, 1.0])
def test_what_is_no_seed_is_refused_with_the_rule(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"a seed is a plain decimal from 0 to 2\^63 - 1"):
        read_seeds(wrong)


def test_a_product_of_a_trillion_rows_is_refused_before_it_is_expanded() -> None:
    watch = Stopwatch()
    found = letter(
        "{text: Hi., seed: 1..1000000, steps: [1, 2]}", f"{{text: Hi., seed: 0..{2**62}}}"
    )
    assert watch.idle_s() < 1
    assert found.splitlines() == [
        "m.yaml:6: 1,000,000 rows with those before; the limit is 100,000 in one manifest. "
        "Split it, or narrow the lists",
        "m.yaml:7: 4,611,686,018,427,387,905 rows with those before; the limit is 100,000 in one "
        "manifest. Split it, or narrow the lists",
    ]


def test_100000_rows_are_accepted_and_one_more_is_not() -> None:
    assert len(rows("{text: Hi., seed: 1..50000, steps: [1, 2]}")) == 100_000
    found = letter("{text: Hi., seed: 1..50000, steps: [1, 2]}", "{text: Ho.}")
    assert found.startswith("m.yaml:7: 100,001 rows with those before; the limit is 100,000")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("{subject: [a, b], text: [x, y, z], zip: [subject, text]}",
         "zip pairs lists of equal length; subject has 2, text has 3"),
        ("{text: x, zip: [text, frames]}", "zip names 'frames', which the matrix does not list"),
        ("{text: [x, y], seed: 1..2, zip: [text, text]}", "zip names 'text' twice; delete one"),
        ("{text: x, zip: [text]}", "zip is too short; write more, or leave it out"),
        ("{text: x, seed: 1..3, exclude: [{seed: 9}]}",
         "exclusion 1 drops nothing; mend or remove it"),
        ("{text: x, exclude: [{subject: a}]}",
         "exclusion 1 names subject, which the matrix does not list"),
        ("{text: x, exclude: [{}]}", "exclusion 1 is empty; remove it"),
        ("{text: x, exclude: [{seeed: 1}]}", "unknown key 'seeed', did you mean 'seed'?"),
        ("{text: x, frams: [9, 13], zip: [text, frams]}",
         "unknown key 'frams', did you mean 'frames'?"),
        ("{text: x, prompt: p}", "a matrix takes prompt (names) or text; write one of them"),
        ("{subject: a}", "a matrix takes prompt (names) or text; write one of them"),
        ("{text: x, seed: []}", "seed is an empty list; write a seed, or leave the key out"),
        ("{text: x, steps: [4, many]}", "steps is 'many'; it takes a whole number"),
        ("{text: [x, no]}", 'text is no, which YAML may read as false; quote it: "no"'),
        ("{text: x, subject: [a, c]}", "there is no subject 'c'; define it under subjects"),
        ("{prompt: [p, lines-3]}", "there is no prompt 'lines-3', did you mean 'lines-2'?"),
    ],
)  # fmt: skip
def test_a_wrong_matrix_is_answered_with_its_line(entry: str, text: str) -> None:
    assert letter(entry) == f"m.yaml:6: {text}"


def test_exclusions_drop_the_same_as_asking_each_of_every_combination() -> None:
    drops = [
        {"subject": "a", "seed": range(2, 4)},
        {"prompt": "lines", "seed": range(4, 5)},
        {"prompt": "lines-1", "subject": "b"},
        {"seed": range(5, 2**62)},
    ]
    written = (
        "{subject: a, seed: 2..3}, {prompt: lines, seed: 4}, {prompt: lines-1, subject: b}, "
        f"{{seed: 5..{2**62}}}"
    )
    found = rows(
        f"{{subject: [a, b], prompt: [p, lines], seed: [1..3, 4, 9], exclude: [{written}]}}"
    )
    expected = [
        (subject, prompt, seed)
        for subject in "ab"
        for prompt in ("p", "lines-1", "lines-2")
        for seed in (1, 2, 3, 4, 9)
        if not any(
            drop.get("subject", subject) == subject
            and drop.get("prompt", prompt) in {prompt, prompt.partition("-")[0]}
            and seed in drop.get("seed", [seed])
            for drop in drops
        )
    ]
    assert [(r.subject, r.prompt.name, r.seed) for r in found] == expected


def test_a_thousand_exclusions_of_a_hundred_thousand_rows_take_seconds() -> None:
    drops = ", ".join(f"{{subject: a, seed: {n}}}" for n in range(1, 1001))
    watch = Stopwatch()
    found = rows(f"{{subject: [a, b], text: Hi., seed: 1..50000, exclude: [{drops}]}}")
    # Asking each exclusion of each combination takes over a minute.
    assert watch.idle_s() < 5
    assert len(found) == 99_000
