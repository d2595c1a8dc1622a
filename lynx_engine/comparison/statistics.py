"""Statistics of a campaign over several variants: means, intervals, paired differences.

Pure: scores in, numbers and remarks out. Who measured the scores is `measuring.py`'s business.

The unit is a cell, one subject with one prompt: seeds are averaged within it first, so that a cell
with ten seeds weighs as much as one with two. A mean is over cells, and its interval holds with
95 % confidence for other cells of the same kind. It is found by resampling the cells with
replacement `RESAMPLES` times, from a fixed seed, and taking percentiles of the means. Plain
percentiles are too narrow for few cells; these are moved out until they agree, for normal data,
with Student's t (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 3.2):

    level = Phi(-sqrt(n / (n - 1)) t(0.975, n - 1)),    interval = percentiles level and 1 - level
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 10_000
LEAST_CELLS = 5
"""Fewer cells give no interval: resampling cannot reach beyond the values that are there."""

_SEED = 20250915
_NUMBERS_AT_ONCE = 4_000_000
_TOLD = 12

Cell = tuple[str, str]
"""Subject and prompt name."""


@dataclass(frozen=True, slots=True)
class Column:
    """One measure.

    Attributes:
        name: Key of the scores.
        title: Head of the column.
        footnote: Who measured it and what the numbers mean; why it is empty, where it is.
        digits: Decimal places worth showing.
    """

    name: str
    title: str
    footnote: str
    digits: int = 3


@dataclass(frozen=True, slots=True)
class ScoredClip:
    """A clip and what was measured of it.

    Attributes:
        job_id: Digest of its request.
        variant: Registry name.
        subject: Subject name, "none" without one.
        prompt_name: The author's name for the prompt.
        seed: Seed of the row.
        scores: Column name -> the score; None where it is no number, as the likeness of a clip
            that shows no face.
    """

    job_id: str
    variant: str
    subject: str
    prompt_name: str
    seed: int
    scores: Mapping[str, float | None]

    @property
    def cell(self) -> Cell:
        """What it shows, whichever seed and variant."""
        return (self.subject, self.prompt_name)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over cells with its 95 % interval.

    Attributes:
        mean: The mean.
        low: Lower end of the interval; None with fewer than `LEAST_CELLS` cells.
        high: Upper end.
        cells: How many cells have a score.
    """

    mean: float
    low: float | None
    high: float | None
    cells: int


@dataclass(frozen=True, slots=True)
class Line:
    """One variant.

    Attributes:
        variant: Registry name.
        subjects: How many subjects its clips show.
        prompts: How many prompts.
        clips: How many clips.
        estimates: Column name -> its mean; None where nothing was measured.
    """

    variant: str
    subjects: int
    prompts: int
    clips: int
    estimates: Mapping[str, Estimate | None]


@dataclass(frozen=True, slots=True)
class Difference:
    """A variant less another one, over the cells that both have: the fair comparison.

    Attributes:
        variant: The one.
        other: The one it is held against.
        estimates: Column name -> mean difference; None where they share no cell.
    """

    variant: str
    other: str
    estimates: Mapping[str, Estimate | None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The table.

    Attributes:
        columns: In their order.
        lines: One a variant, in the order given.
        differences: Every later variant less the first one.
        remarks: What a reader must know: missing pairs, clips without a face, too few cells.
    """

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    differences: tuple[Difference, ...]
    remarks: tuple[str, ...]


def compare_variants(
    clips: Sequence[ScoredClip], variants: Sequence[str], columns: Sequence[Column]
) -> Comparison:
    """Return the table of variants.

    Args:
        clips: Every clip that counts.
        variants: In the order of the lines; the first one is what the others are held against.
        columns: In their order.
    """
    of = {name: [clip for clip in clips if clip.variant == name] for name in variants}
    cells = {
        (name, column.name): cell_means(of[name], column.name)
        for name in variants
        for column in columns
    }
    first = variants[0] if variants else ""
    return Comparison(
        columns=tuple(columns),
        lines=tuple(
            Line(
                name,
                subjects=len({clip.subject for clip in of[name]}),
                prompts=len({clip.prompt_name for clip in of[name]}),
                clips=len(of[name]),
                estimates={c.name: estimate(list(cells[name, c.name].values())) for c in columns},
            )
            for name in variants
        ),
        differences=tuple(
            Difference(
                name,
                first,
                {c.name: _paired(cells[name, c.name], cells[first, c.name]) for c in columns},
            )
            for name in variants[1:]
        ),
        remarks=(*_missing_pairs(of), *_faceless(of, columns), *_few_cells(of)),
    )


def cell_means(clips: Iterable[ScoredClip], column: str) -> dict[Cell, float]:
    """Return the mean score of each cell over its seeds; cells without a score are left out."""
    found: defaultdict[Cell, list[float]] = defaultdict(list)
    for clip in clips:
        score = clip.scores.get(column)
        if score is not None:
            found[clip.cell].append(score)
    return {cell: sum(scores) / len(scores) for cell, scores in found.items()}


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return the mean of the cells' `values` and its interval; None of no cells."""
    if not values:
        return None
    array = np.array(values, np.float64)
    interval = (None, None) if len(values) < LEAST_CELLS else bootstrap_interval(array)
    return Estimate(float(array.mean()), *interval, cells=len(values))


def bootstrap_interval(
    values: npt.NDArray[np.float64], *, resamples: int = RESAMPLES, seed: int = _SEED
) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `values`, as the module's head says.

    Args:
        values: float64 [n], n >= 2, one a cell.
        resamples: How often the cells are drawn anew.
        seed: The same seed draws the same cells.
    """
    count = len(values)
    draw = np.random.default_rng(seed)
    pieces: list[npt.NDArray[np.float64]] = []
    step = max(1, _NUMBERS_AT_ONCE // count)
    for begin in range(0, resamples, step):
        drawn = draw.integers(0, count, size=(min(step, resamples - begin), count))
        pieces.append(values[drawn].mean(axis=1))
    t = student_quantile((1 + CONFIDENCE) / 2, count - 1)
    level = NormalDist().cdf(-sqrt(count / (count - 1)) * t)
    low, high = np.quantile(np.concatenate(pieces), [level, 1 - level])
    return float(low), float(high)


@cache
def student_quantile(level: float, freedom: int) -> float:
    """Return the quantile of Student's t, `level` above 0.5, right to 5 digits.

    With x = sqrt(freedom) tan(a) the density of t becomes proportional to cos(a)^(freedom - 1),
    which is integrated over -pi/2 to pi/2.
    """
    edges = np.linspace(-np.pi / 2, np.pi / 2, 200_001)
    middles = (edges[:-1] + edges[1:]) / 2
    reached = np.concatenate([[0.0], np.cumsum(np.cos(middles) ** (freedom - 1))])
    angle = np.interp(level, reached / reached[-1], edges)
    return float(sqrt(freedom) * np.tan(angle))


def _paired(of: Mapping[Cell, float], other: Mapping[Cell, float]) -> Estimate | None:
    return estimate([of[cell] - other[cell] for cell in of if cell in other])


def _missing_pairs(of: Mapping[str, Sequence[ScoredClip]]) -> list[str]:
    every = dict.fromkeys(clip.cell for clips in of.values() for clip in clips)
    remarks: list[str] = []
    for variant, clips in of.items():
        there = {clip.cell for clip in clips}
        lacking = [
            f"{subject} x {prompt}" for subject, prompt in every if (subject, prompt) not in there
        ]
        if lacking:
            more = f" and {len(lacking) - _TOLD} more" if len(lacking) > _TOLD else ""
            remarks.append(f"{variant} lacks {', '.join(lacking[:_TOLD])}{more}.")
    if remarks:
        remarks.append(
            "So the means are of different subjects and prompts, and do not compare; the "
            "differences do: they are over what both variants show."
        )
    return remarks


def _faceless(of: Mapping[str, Sequence[ScoredClip]], columns: Sequence[Column]) -> list[str]:
    names = [column.name for column in columns]
    if "face_share" not in names:
        return []
    remarks: list[str] = []
    for variant, clips in of.items():
        count = sum(clip.scores.get("face_share") == 0 for clip in clips)
        if count:
            said = "1 clip shows" if count == 1 else f"{count} clips show"
            remarks.append(
                f"{said} no face ({variant}): no likeness can be told, so the means of likeness "
                "are over the others. Read them with the face share."
            )
    return remarks


def _few_cells(of: Mapping[str, Sequence[ScoredClip]]) -> list[str]:
    few = [name for name, clips in of.items() if 0 < len({c.cell for c in clips}) < LEAST_CELLS]
    if not few:
        return []
    return [
        f"{', '.join(few)}: fewer than {LEAST_CELLS} pairs of subject and prompt are too few for "
        "an interval."
    ]
