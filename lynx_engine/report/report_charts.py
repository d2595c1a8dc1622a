"""Measures of a campaign as the numbers of two charts: likeness and time per stage, by variant.

Geometry only, in the units of the drawing; the template writes the SVG and the table beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lynx_engine.comparison.statistics import Estimate, ScoredClip, cell_means, estimate
from lynx_engine.identity.evaluators import threshold_of
from lynx_engine.report.report_data import STAGES, Row

WIDTH = 480
"""Width of a drawing."""
LEFT, RIGHT = 20, 460
"""Where the scale begins and ends in it."""

_LANE = 52
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the scale.

    Attributes:
        x: Where.
        text: Its number.
    """

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One variant's likeness.

    Attributes:
        variant: Its name.
        y: Middle of its lane.
        dots: Where its clips lie, as an SVG path of points.
        mean: Where the mean lies.
        low: Where its interval begins; None without one.
        high: Where it ends.
        clips: How many were scored.
        estimate: The numbers.
    """

    variant: str
    y: float
    dots: str
    mean: float
    low: float | None
    high: float | None
    clips: int
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class LikenessChart:
    """Likeness by variant.

    Attributes:
        evaluator: Who scored; clips that another one scored are not in it.
        left_out: How many these are.
        lanes: One a variant.
        ticks: The scale.
        threshold: Where two faces count as one person; None where nobody says.
        threshold_text: The number.
        height: Of the drawing.
    """

    evaluator: str
    left_out: int
    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]
    threshold: float | None
    threshold_text: str
    height: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A stage's part of a bar: mean seconds, and where it lies."""

    stage: str
    seconds: float
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One variant's stages; `seconds` is their sum, the mean over `clips` clips."""

    variant: str
    y: float
    pieces: tuple[Piece, ...]
    seconds: float
    clips: int


@dataclass(frozen=True, slots=True)
class StageChart:
    """Mean seconds a clip by stage and variant.

    Attributes:
        bars: One a variant.
        ticks: The scale.
        stages: Those that took any time, in their order.
        height: Of the drawing.
    """

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    stages: tuple[str, ...]
    height: float


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps values onto the drawing, between round numbers `step` apart."""

    low: float
    high: float
    step: float

    @classmethod
    def over(cls, low: float, high: float) -> _Scale:
        """Return the scale with about `_TICKS` round steps that holds both numbers."""
        raw = max(high - low, 1e-6) / _TICKS
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.999)
        begin = math.floor(low / step + 1e-9) * step
        end = math.ceil(high / step - 1e-9) * step
        return cls(begin, max(end, begin + step), step)

    def place(self, value: float) -> float:
        """Return where a value lies in the drawing."""
        share = (value - self.low) / (self.high - self.low)
        return round(LEFT + share * (RIGHT - LEFT), 1)

    def ticks(self) -> tuple[Tick, ...]:
        count = round((self.high - self.low) / self.step)
        values = [self.low + n * self.step for n in range(count + 1)]
        return tuple(Tick(self.place(value), f"{round(value, 9):g}") for value in values)


def chart_likeness(rows: Iterable[Row]) -> LikenessChart | None:
    """Return likeness by variant, of the rows' latest clips; None where nobody scored any."""
    scored = [row for row in rows if row.clip and _is_number(row.made["identity_mean"])]
    if not scored:
        return None
    evaluator = Counter(row.made["evaluator"] for row in scored).most_common(1)[0][0]
    found = [row for row in scored if row.made["evaluator"] == evaluator]
    bar = threshold_of(found[-1].made["evaluator_calibration"])
    bar = bar if _is_number(bar) else None
    values = [row.made["identity_mean"] for row in found] + ([] if bar is None else [bar])
    scale = _Scale.over(min(values), max(values))
    variants = dict.fromkeys(row.made["variant"] for row in found)
    lanes = tuple(
        _lane(name, number, [row for row in found if row.made["variant"] == name], scale)
        for number, name in enumerate(variants)
    )
    return LikenessChart(
        evaluator=evaluator,
        left_out=len(scored) - len(found),
        lanes=lanes,
        ticks=scale.ticks(),
        threshold=None if bar is None else scale.place(bar),
        threshold_text="" if bar is None else f"{bar:g}",
        height=len(lanes) * _LANE,
    )


def _lane(variant: str, number: int, rows: Sequence[Row], scale: _Scale) -> Lane:
    clips = [
        ScoredClip(
            job_id=row.job_id,
            variant=variant,
            subject=row.made["subject"],
            prompt_name=row.made["prompt_name"],
            seed=row.made["seed"],
            scores={"likeness": row.made["identity_mean"]},
        )
        for row in rows
    ]
    found = estimate(list(cell_means(clips, "likeness").values()))
    if found is None:
        raise ValueError(f"{variant} has no scored clip")
    middle = number * _LANE + 34
    # Dots that would hide each other lie a little apart, by a fixed pattern.
    dots = "".join(
        f"M{scale.place(row.made['identity_mean']):g} {middle + (at * 5 % 17 - 8):g}h0"
        for at, row in enumerate(rows)
    )
    return Lane(
        variant=variant,
        y=middle,
        dots=dots,
        mean=scale.place(found.mean),
        low=None if found.low is None else scale.place(max(found.low, scale.low)),
        high=None if found.high is None else scale.place(min(found.high, scale.high)),
        clips=len(rows),
        estimate=found,
    )


def chart_stages(rows: Iterable[Row]) -> StageChart | None:
    """Return mean seconds by stage and variant, of the rows' latest clips; None without any."""
    timed = [row for row in rows if row.clip and any(row.made[f"{s}_s"] for s in STAGES)]
    if not timed:
        return None
    means: dict[str, dict[str, float]] = {}
    clips = Counter(row.made["variant"] for row in timed)
    for row in timed:
        of = means.setdefault(row.made["variant"], dict.fromkeys(STAGES, 0.0))
        for stage in STAGES:
            of[stage] += row.made[f"{stage}_s"] / clips[row.made["variant"]]
    scale = _Scale.over(0.0, max(sum(of.values()) for of in means.values()))
    return StageChart(
        bars=tuple(
            _bar(name, number, of, clips[name], scale)
            for number, (name, of) in enumerate(means.items())
        ),
        ticks=scale.ticks(),
        stages=tuple(stage for stage in STAGES if any(of[stage] for of in means.values())),
        height=len(means) * _LANE,
    )


def _bar(variant: str, number: int, means: dict[str, float], clips: int, scale: _Scale) -> Bar:
    pieces: list[Piece] = []
    begin = 0.0
    for stage, seconds in means.items():
        if seconds > 0:
            left, right = scale.place(begin), scale.place(begin + seconds)
            pieces.append(Piece(stage, seconds, left, round(right - left, 1)))
        begin += seconds
    return Bar(variant, number * _LANE + 22, tuple(pieces), begin, clips)


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
