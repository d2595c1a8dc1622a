"""P10: device memory of 14B in each tier, itemised, counted from the real networks on meta.

    python -m tests.benchmarks.bench_memory [--quick]

Prints a table, and one JSON line last. Needs no GPU and no weights; takes some four minutes, most
of it the tiled decode.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from lynx_engine.capacity.choose import DoesNotFit, choose
from lynx_engine.capacity.memory import GIB, estimate_memory
from lynx_engine.capacity.placement import Placement
from lynx_engine.shapes import FrameSize
from lynx_engine.variants import get_variant
from lynx_engine.variants.dimensions import architecture_of
from tests.benchmarks.figures import TARGETS, is_quick, tell
from tests.support.accounted import account

CEILINGS = {name: gib for name, (_, gib) in TARGETS.items() if name.startswith("P10_")}
"""Figure -> GiB."""
VARIANTS = ("lynx_full", "lynx_lite")
QUICK_SHAPE = (9, FrameSize(256, 256))
"""Frames and size that only show that the benchmark runs."""


def placement_for(variant: str, figure: str) -> Placement:
    """The placement chosen when the ceiling is all there is, its reserve included."""
    spec, architecture = get_variant(variant), architecture_of(get_variant(variant), None)
    assert architecture is not None
    d = spec.defaults
    asked = "resident" if figure == "P10_resident" else "auto"
    try:
        return choose(
            asked,
            architecture,
            frames=d.frames,
            size=d.size,
            precision="bfloat16",
            numerics="normal",
            free_bytes=round(CEILINGS[figure] * GIB),
        ).placement
    except DoesNotFit:
        # Below the ceiling but within the reserve: the tier's smallest, counted all the same.
        return Placement(
            asked,
            others_wait=True,
            blocks_leave_for_decode=True,
            keeps_text_kv=False,
            shares_first_block=False,
        )


def itemised(
    variant: str, figure: str, *, shape: tuple[int, FrameSize] | None = None
) -> tuple[float, Iterator[str]]:
    """Return the counted peak in GiB, and the lines of its table.

    Args:
        variant: Which.
        figure: One of `CEILINGS`; its placement is counted.
        shape: Frames and size; the variant's defaults if None.
    """
    spec, architecture = get_variant(variant), architecture_of(get_variant(variant), None)
    assert architecture is not None
    placement = placement_for(variant, figure)
    frames, size = shape or (spec.defaults.frames, spec.defaults.size)
    counted = account(
        spec, architecture, frames=frames, size=size, precision="bfloat16", placement=placement
    )
    estimate = estimate_memory(
        architecture, placement, frames=frames, size=size, precision="bfloat16"
    )
    largest = max(counted, key=lambda phase: counted[phase].bytes)

    def lines() -> Iterator[str]:
        yield f"\n{variant}, {frames} frames of {size}, {figure} <= {CEILINGS[figure]} GiB"
        default = Placement(placement.tier)
        told = [
            f"{name}={getattr(placement, name)}"
            for name in Placement.__dataclass_fields__
            if getattr(placement, name) != getattr(default, name)
        ]
        yield f"  {placement.tier}: {', '.join(told) or 'everything stays'}"
        for phase, peak in counted.items():
            mark = "*" if phase == largest else " "
            estimated = sum(estimate.phases[phase].values()) / GIB
            yield f" {mark}{phase:<28}{peak.bytes / GIB:>7.2f}  (estimated {estimated:.2f})"
            for item, taken in sorted(peak.held.items(), key=lambda pair: -pair[1]):
                yield f"    {item:<28}{taken / GIB:>7.2f}"
            yield f"    {'made by operations':<28}{peak.made_bytes / GIB:>7.2f}"
            for item, taken in sorted(peak.alive.items(), key=lambda pair: -pair[1])[:6]:
                yield f"      {taken / GIB:>6.2f}  {item}"

    return counted[largest].bytes / GIB, lines()


def main() -> int:
    """Print the tables and the figures; return 1 if one is above its ceiling."""
    # P10's peaks: those of the variant that needs most.
    figures: dict[str, float] = {}
    for figure in list(CEILINGS)[-1 if is_quick() else 0 :]:
        for variant in VARIANTS[: 1 if is_quick() else None]:
            peak, lines = itemised(variant, figure, shape=QUICK_SHAPE if is_quick() else None)
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
            figures[figure] = max(peak, figures.get(figure, 0.0))
    return tell(figures)


if __name__ == "__main__":
    sys.exit(main())
