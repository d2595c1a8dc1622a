"""What the log tells of likeness, for the commands that look back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class LikenessSummary:
    """How alike the published clips of a campaign are, on one evaluator's scale.

    Attributes:
        evaluator: Who scored them.
        calibration: What its scores mean, as records tell it.
        clips: Clips that were scored.
        mean: Mean of their mean likeness, over those that show a face; None if none does.
        threshold: From which on two faces count as one person; None where uncalibrated.
        under: Clips with a face whose mean is under it; None where uncalibrated.
        no_face: Clips that show no face.
        least: The least likeness of any frame of any clip; None if no clip shows a face.
        slope_per_s: Mean change of likeness a second; None where no clip tells one.
        face_share: Mean part of the frames that show a face.
    """

    evaluator: str
    calibration: str
    clips: int
    mean: float | None
    threshold: float | None
    under: int | None
    no_face: int
    least: float | None
    slope_per_s: float | None
    face_share: float

    def __str__(self) -> str:
        """Return it in one line."""
        clips = f"{self.clips} clip{'s' * (self.clips != 1)}"
        if self.mean is None:
            return f"likeness unknown, no face in {clips} ({self.evaluator})"
        under = "" if self.threshold is None else f"{self.under} under {self.threshold:g}"
        hidden = f", {self.no_face} without a face" if self.no_face else ""
        parts = [] if self.least is None else [f"least {self.least:.2f}"]
        parts += [] if self.slope_per_s is None else [f"slope {self.slope_per_s:+.2f}/s"]
        frames = ", ".join([*parts, f"a face in {self.face_share:.0%} of the frames"])
        told = f"{self.mean:.2f} in {clips}, {under or self.calibration}{hidden}; {frames}"
        return f"likeness {told} ({self.evaluator})"


def summarise_likeness(
    log: pl.DataFrame, wanted: Collection[str] | None = None
) -> list[LikenessSummary]:
    """Return one summary for each evaluator that scored a clip.

    Args:
        log: A campaign's records, oldest first.
        wanted: Requests that count; None means every one.
    """
    import polars as pl

    from lynx_engine.identity.evaluators import threshold_of
    from lynx_engine.jobs import Status

    # The latest clip of a request stands in the folder; tries of a gate without one do not, and a
    # row that was withheld keeps none.
    ends = log.unique("job_id", keep="last", maintain_order=True)
    withheld = ends.filter(pl.col("status") == Status.WITHHELD.value).get_column("job_id")
    clips = log.filter(pl.col("clip") != "", ~pl.col("job_id").is_in(withheld.to_list()))
    clips = clips.unique("job_id", keep="last", maintain_order=True)
    if wanted is not None:
        clips = clips.filter(pl.col("job_id").is_in(list(wanted)))
    scored = clips.filter(pl.col("evaluator") != "")
    summaries: list[LikenessSummary] = []
    groups = scored.group_by("evaluator", "evaluator_calibration", maintain_order=True)
    for (evaluator, calibration), group in groups:
        means = _told(group, "identity_mean")
        slopes = _told(group, "identity_slope")
        shares = _told(group, "face_share")
        threshold = threshold_of(str(calibration))
        summaries.append(
            LikenessSummary(
                evaluator=str(evaluator),
                calibration=str(calibration),
                clips=len(group),
                mean=_mean(means),
                threshold=threshold,
                under=None if threshold is None else sum(mean < threshold for mean in means),
                no_face=len(group) - len(means),
                least=min(_told(group, "identity_min"), default=None),
                slope_per_s=_mean(slopes),
                face_share=_mean(shares) or 0.0,
            )
        )
    return summaries


def likeness_columns() -> dict[str, pl.Expr]:
    """Return an attempt's likeness as texts, by what stands over each column.

    The mean is "no face" where no frame shows one. All are "" where nobody scored the clip.
    """
    import polars as pl

    score = _written("identity_mean", "{:.2f}")
    mean = pl.when(pl.col("face_share") == 0).then(pl.lit("no face")).otherwise(score)
    return {
        "likeness": mean.fill_null("").alias("likeness"),
        "least": _written("identity_min", "{:.2f}"),
        "per s": _written("identity_slope", "{:+.2f}"),
        "faces": _written("face_share", "{:.0%}"),
    }


def _written(column: str, form: str) -> pl.Expr:
    import polars as pl

    return pl.col(column).map_elements(form.format, pl.String).fill_null("")


def _told(group: pl.DataFrame, column: str) -> list[float]:
    return group.get_column(column).drop_nulls().to_list()


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
