"""The rules of the identity gate: its seeds, its bar, and what becomes of each try."""

from __future__ import annotations

import math
import re
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_engine.gate import (
    NO_FACE,
    IdentityGate,
    Verdict,
    at_try,
    conditions_too,
    gate_of,
    likeness_in_words,
    reseed,
    score_of,
)
from lynx_engine.results import Likeness
from lynx_engine.variants import get_variant
from tests.support.jobs import make_job

README = (Path(__file__).parents[2] / "manifests/README.md").read_text(encoding="utf-8")
GATE = IdentityGate(0.55, 3, "best", "dlib 20.0 (BSL-1.0)")
SEEDS = st.integers(0, 2**63 - 1)


def likeness(mean: float | None) -> Likeness:
    return Likeness(
        evaluator="dlib 20.0 (BSL-1.0)",
        calibration="uncalibrated",
        frames=8,
        face_share=0.0 if mean is None else 1.0,
        mean=mean,
        least=mean,
        slope_per_s=None,
    )


def by_the_book(seed: int, n: int) -> int:
    """Recompute a seed from the words of manifests/README.md, bit by bit."""
    if n == 1:
        return seed
    wording = re.search(r"`(lynx_engine identity gate, seed S, try n)`", README)
    assert wording is not None
    text = wording[1].replace("seed S", f"seed {seed}").replace("try n", f"try {n}")
    bits = "".join(f"{byte:08b}" for byte in sha256(text.encode("ascii")).digest())
    return int(bits[:63], 2)


@given(seed=SEEDS, n=st.integers(1, 300))
def test_each_try_takes_the_seed_that_the_readme_tells_how_to_compute(seed: int, n: int) -> None:
    assert reseed(seed, n) == by_the_book(seed, n)
    assert 0 <= reseed(seed, n) < 2**63


def test_the_readmes_table_of_seeds_is_the_sequence() -> None:
    table = README.split("| try | seed |", 1)[1].split("\n\n", 1)[0]
    rows = [tuple(map(int, row)) for row in re.findall(r"\| ([0-9]+) \| ([0-9]+) \|", table)]
    assert rows == [(n, by_the_book(42, n)) for n in (1, 2, 3)]


def test_the_seeds_of_a_row_and_its_neighbours_are_all_different() -> None:
    seeds = [reseed(seed, n) for seed in range(50) for n in range(1, 101)]
    assert len(set(seeds)) == len(seeds)


def test_tries_are_counted_from_1() -> None:
    with pytest.raises(ValueError, match="counted from 1, not 0"):
        reseed(7, 0)


@given(
    score=st.floats(0, 1),
    attempts=st.integers(1, 100),
    keep=st.sampled_from(("best", "first")),
    name=st.text(min_size=1),
)
def test_what_a_request_says_of_its_gate_is_read_back_unchanged(
    score: float, attempts: int, keep: str, name: str
) -> None:
    gate = IdentityGate(score, attempts, keep, name)
    assert IdentityGate.parse(str(gate)) == gate


def test_a_gate_is_written_in_one_readable_line() -> None:
    assert str(GATE) == "0.55, 3 seeds, best; by dlib 20.0 (BSL-1.0)"
    assert str(IdentityGate(1.0, 1, "first", "x")) == "1.0, 1 seed, first; by x"


@pytest.mark.parametrize(
    "text", ["", "0.55", "0.55, 3 seeds, worst; by x", "0.550, 3 seeds, best; by x",
             "0.55, 0 seeds, best; by x", "0.55, 1 seeds, best; by x"],
)  # fmt: skip
def test_text_that_no_gate_writes_is_no_gate(text: str) -> None:
    with pytest.raises(ValueError, match="not an identity gate"):
        IdentityGate.parse(text)


@pytest.mark.parametrize(
    ("mean", "passes"),
    [(0.55, True), (1.0, True), (0.5499, False), (-0.3, False), (None, False), (math.nan, False)],
)
def test_the_bar_itself_passes_and_a_clip_without_a_face_does_not(
    mean: float | None, passes: bool
) -> None:
    assert GATE.passes(likeness(mean)) is passes


def test_a_clip_without_a_face_does_not_pass_a_bar_of_zero() -> None:
    assert not IdentityGate(0.0, 1, "best", "x").passes(likeness(None))


RENDERED = Verdict(passes=True, is_kept=True, goes_on=False)


@pytest.mark.parametrize(
    ("keep", "mean", "best", "kept"),
    [
        ("best", 0.3, None, True), ("first", 0.3, None, True),
        ("best", 0.3, 0.2, True), ("first", 0.3, 0.2, False),
        ("best", 0.3, 0.3, False), ("best", 0.2, 0.3, False),
        ("best", None, None, True), ("best", None, NO_FACE, False),
        ("best", None, -0.4, False), ("best", -0.4, NO_FACE, True),
        ("first", -0.4, NO_FACE, False), ("best", math.nan, None, True),
        ("best", math.nan, NO_FACE, False), ("best", 0.1, score_of(math.nan), True),
    ],
)  # fmt: skip
def test_a_weak_clip_is_kept_if_it_is_the_first_or_better_than_the_best(
    keep: str, mean: float | None, best: float | None, kept: bool
) -> None:
    gate = IdentityGate(0.55, 3, keep, "x")
    for n, goes_on in ((1, True), (2, True), (3, False)):
        found = gate.judge(likeness(mean), best=best, try_number=n, last_try=3)
        assert found == Verdict(passes=False, is_kept=kept, goes_on=goes_on)


@pytest.mark.parametrize("keep", ["best", "first"])
@pytest.mark.parametrize("best", [None, NO_FACE, 0.54])
def test_the_first_clip_that_passes_takes_the_name_and_ends_the_row(
    keep: str, best: float | None
) -> None:
    gate = IdentityGate(0.55, 3, keep, "x")
    assert gate.judge(likeness(0.6), best=best, try_number=2, last_try=3) == RENDERED


@pytest.mark.parametrize(
    ("tries", "last", "through"),
    [(0, 3, True), (1, 3, False), (2, 3, False), (3, 6, True), (4, 6, False), (6, 9, True)],
)
def test_seeds_are_given_out_in_shares_and_a_share_once_begun_is_used_up(
    tries: int, last: int, through: bool
) -> None:
    assert (GATE.last_try(tries), GATE.is_through(tries)) == (last, through)


def test_a_try_renders_the_rows_request_with_its_own_seed() -> None:
    job = make_job(seed=42, gate=str(GATE))
    assert at_try(job, 1) is job
    second = at_try(job, 2)
    assert second.seed == by_the_book(42, 2)
    assert second.job_id != job.job_id
    changed = {k for k, v in second.request().items() if v != job.request()[k]}
    assert changed == {"seed"}


def test_a_job_without_a_gate_has_none() -> None:
    assert gate_of(make_job()) is None
    assert gate_of(make_job(gate=str(GATE))) == GATE


def test_the_recogniser_that_conditions_a_variant_is_known_by_its_source() -> None:
    full, wan = get_variant("lynx_full"), get_variant("wan")
    assert conditions_too("facexlib 0.3.0 recognition_arcface_ir_se50", full)
    assert not conditions_too("dlib 20.0 (BSL-1.0)", full)
    assert not conditions_too("insightface 2.1 buffalo_l/w600k_r50.onnx", full)
    assert not conditions_too("", full)
    assert not conditions_too("facexlib 0.3.0", wan)


def test_how_far_a_row_came_is_told_in_words() -> None:
    gate = str(GATE)
    assert likeness_in_words(gate, 0.4149, 3) == "0.41 of 0.55 after 3 seeds"
    assert likeness_in_words(gate, 0.5499, 2) == "0.54 of 0.55 after 2 seeds"
    assert likeness_in_words(gate, score_of(None), 1) == "no face seen, of 0.55 after 1 seed"
    assert likeness_in_words("", None, 1) == "unknown"
