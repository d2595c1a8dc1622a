"""The statistics of `lynx-engine compare`, held against closed forms and simulated truth."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pytest

from lynx_engine.comparison.statistics import (
    LEAST_CELLS,
    Column,
    ScoredClip,
    bootstrap_interval,
    compare_variants,
    estimate,
    student_quantile,
)

# Student's t at 0.975, from the tables of any textbook.
STUDENT = {1: 12.7062, 2: 4.30265, 4: 2.77645, 9: 2.26216, 19: 2.09302, 39: 2.02269, 799: 1.96293}
LIKENESS = Column("dlib", "dlib", "")
SHARE = Column("face_share", "face share", "")


def clip(
    variant: str,
    subject: str,
    prompt: str,
    seed: int = 1,
    scores: Mapping[str, float | None] | float | None = 0.5,
) -> ScoredClip:
    found = scores if isinstance(scores, Mapping) else {"dlib": scores}
    return ScoredClip(f"{variant}-{subject}-{prompt}-{seed}", variant, subject, prompt, seed, found)


@pytest.mark.parametrize(("freedom", "expected"), STUDENT.items())
def test_students_quantile_is_that_of_the_tables(freedom: int, expected: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("count", [10, 20, 40, 200])
def test_for_normal_data_the_interval_is_students(count: int) -> None:
    # Quantiles of the normal distribution: as normal as a sample can be.
    rng = np.random.default_rng(3)
    values = rng.normal(0.7, 0.05, count)
    half = STUDENT.get(count - 1, student_quantile(0.975, count - 1))
    half *= values.std(ddof=1) / np.sqrt(count)
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.12 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.12 * half)


@pytest.mark.parametrize(("count", "least"), [(5, 0.90), (12, 0.92), (40, 0.92)])
def test_ninety_five_of_a_hundred_intervals_hold_the_truth(count: int, least: float) -> None:
    rng = np.random.default_rng(count)
    # Likeness is skewed: a few clips drift far. Beta(8, 3) has mean 8/11.
    samples = rng.beta(8, 3, size=(400, count))
    held = [
        low <= 8 / 11 <= high
        for number, values in enumerate(samples)
        for low, high in [bootstrap_interval(values, resamples=2000, seed=number)]
    ]
    assert least <= np.mean(held) <= 0.98


def test_the_same_scores_give_the_same_interval() -> None:
    values = np.random.default_rng(1).normal(size=30)
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_equal_scores_have_an_interval_of_no_width() -> None:
    found = estimate([0.25] * 8)
    assert found is not None
    assert (found.mean, found.low, found.high, found.cells) == (0.25, 0.25, 0.25, 8)


def test_forty_subjects_with_twenty_prompts_take_less_than_a_second() -> None:
    values = np.random.default_rng(1).normal(size=800)
    begin = time.process_time()
    bootstrap_interval(values)
    assert time.process_time() - begin < 1.0


def test_seeds_are_averaged_within_a_pair_first() -> None:
    clips = [
        *(clip("tiny", "host", "beach", seed, 0.9) for seed in range(9)),
        clip("tiny", "host", "city", 1, 0.3),
    ]
    line = compare_variants(clips, ["tiny"], [LIKENESS]).lines[0]
    assert (line.subjects, line.prompts, line.clips) == (1, 2, 10)
    found = line.estimates["dlib"]
    assert found is not None
    assert (found.mean, found.cells) == (pytest.approx(0.6), 2)


def test_differences_are_paired_so_that_hard_subjects_cancel() -> None:
    rng = np.random.default_rng(5)
    cells = [(f"s{i}", f"p{j}") for i in range(10) for j in range(4)]
    hardness = {cell: rng.normal(0.6, 0.2) for cell in cells}
    clips = [
        clip(variant, *cell, scores=hardness[cell] + gain + rng.normal(0, 0.01))
        for variant, gain in (("tiny", 0.0), ("tiny_lite", 0.02))
        for cell in cells
    ]
    found = compare_variants(clips, ["tiny", "tiny_lite"], [LIKENESS])
    plain, other = (line.estimates["dlib"] for line in found.lines)
    assert plain is not None
    assert other is not None
    assert plain.low is not None
    assert plain.high is not None
    assert plain.low < other.mean < plain.high  # unpaired, nobody could tell
    (difference,) = found.differences
    assert (difference.variant, difference.other) == ("tiny_lite", "tiny")
    gain = difference.estimates["dlib"]
    assert gain is not None
    assert gain.low is not None
    assert gain.high is not None
    assert 0.01 < gain.low < 0.02 < gain.high < 0.03
    assert found.remarks == ()


def test_what_nobody_measured_is_empty_and_no_zero() -> None:
    clips = [clip("tiny", "host", "beach", scores={"dlib": None}), clip("wan", "host", "beach")]
    found = compare_variants(clips, ["tiny", "wan"], [LIKENESS, Column("facexlib", "facexlib", "")])
    assert found.lines[0].estimates == {"dlib": None, "facexlib": None}
    assert found.differences[0].estimates == {"dlib": None, "facexlib": None}


def test_missing_pairs_are_told_and_the_means_warned_of() -> None:
    clips = [
        clip("full", "host", "beach"),
        clip("full", "host", "city"),
        clip("lite", "host", "city"),
    ]
    remarks = compare_variants(clips, ["full", "lite"], [LIKENESS]).remarks
    assert remarks[0] == "lite lacks host x beach."
    assert remarks[1].startswith("So the means are of different subjects and prompts")


def test_many_missing_pairs_are_counted() -> None:
    clips = [clip("full", "host", f"p{number}") for number in range(30)]
    remark = compare_variants(clips, ["full", "lite"], [LIKENESS]).remarks[0]
    assert remark.endswith("host x p11 and 18 more.")


def test_clips_without_a_face_are_counted_beside_the_means() -> None:
    clips = [
        clip(
            "tiny",
            f"s{i}",
            "p",
            scores={"dlib": None if i < 2 else 0.5, "face_share": float(i > 1)},
        )
        for i in range(8)
    ]
    found = compare_variants(clips, ["tiny"], [LIKENESS, SHARE])
    likeness, share = found.lines[0].estimates["dlib"], found.lines[0].estimates["face_share"]
    assert likeness is not None
    assert share is not None
    assert (likeness.cells, likeness.mean, share.mean) == (6, 0.5, 0.75)
    assert found.remarks == (
        "2 clips show no face (tiny): no likeness can be told, so the means of likeness are over "
        "the others. Read them with the face share.",
    )


def test_few_pairs_have_a_mean_and_no_interval() -> None:
    clips = [clip("tiny", f"s{i}", "p") for i in range(LEAST_CELLS - 1)]
    found = compare_variants(clips, ["tiny"], [LIKENESS])
    likeness = found.lines[0].estimates["dlib"]
    assert likeness is not None
    assert (likeness.low, likeness.high, likeness.cells) == (None, None, LEAST_CELLS - 1)
    assert found.remarks[0].startswith("tiny: fewer than 5 pairs")


def test_no_clips_make_an_empty_table() -> None:
    assert compare_variants([], [], [LIKENESS]).lines == ()
