"""Reads from a campaign's log when its devices rendered, and when they waited.

A device renders a row, then the next one, while the first is encoded and checked: a row has a span
on the device and a longer one in its process. It measures nothing itself.
"""

from __future__ import annotations

import polars as pl

RENDERING = ("load_s", "text_s", "subject_s", "denoise_s", "decode_s")
FINISHING = ("encode_s", "check_s")


def spans(log: pl.DataFrame) -> pl.DataFrame:
    """Return device, started, rendered and ended (s since the epoch) of each rendered row."""

    def seconds(stages: tuple[str, ...]) -> pl.Expr:
        return pl.sum_horizontal(pl.col(stage).fill_null(0.0) for stage in stages)

    started = pl.col("started_at").dt.epoch("us") / 1e6
    return (
        log.filter(pl.col("status") == "rendered")
        .select(
            "device",
            started=started,
            rendered=started + seconds(RENDERING),
            ended=started + seconds(RENDERING + FINISHING),
        )
        .sort("device", "started")
    )


def waits_s(log: pl.DataFrame) -> pl.Series:
    """Return how long a device waited for each row though it could have begun it.

    It can begin when the row before it has its frames and the one before that is out of the
    process: no more than two rows' frames are held.
    """
    before = pl.col("rendered").shift(1).over("device")
    out = pl.col("ended").shift(2).over("device")
    could = pl.max_horizontal(before, out)
    return spans(log).select(wait=pl.col("started") - could)["wait"].drop_nulls()


def idle_share(log: pl.DataFrame) -> float:
    """Return the share of time in which devices rendered nothing between their rows."""
    lanes = spans(log).group_by("device").agg(
        window=pl.col("rendered").max() - pl.col("started").min(),
        rendering=(pl.col("rendered") - pl.col("started")).sum(),
    )  # fmt: skip
    return 1.0 - float(lanes["rendering"].sum()) / float(lanes["window"].sum())


def busy_s(log: pl.DataFrame) -> float:
    """Return the seconds in which device processes had a row at all, summed over devices."""
    total, until, device = 0.0, 0.0, None
    for row in spans(log).iter_rows(named=True):
        if row["device"] != device:
            device, until = row["device"], row["started"]
        total += max(0.0, row["ended"] - max(row["started"], until))
        until = max(until, row["ended"])
    return total
