"""P10: device memory of 14B in each tier, itemised, counted from the real networks on meta.

    python -m tests.benchmarks.bench_memory

Prints a table, and one JSON line last. Needs no GPU and no weights; takes some four minutes, most
of it the tiled decode.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from lynx_engine.capacity.choose import DoesNotFit, choose
from lynx_engine.capacity.memory import GIB, estimate_memory
from lynx_engine.capacity.placement import Placement
from lynx_engine.variants import get_variant
from lynx_engine.variants.dimensions import architecture_of
from tests.support.accounted import account

CEILINGS = {"P10_resident": 32.0, "P10_24": 22.5, "P10_16": 14.5, "P10_8": 7.6}
VARIANTS = ("lynx_full", "lynx_lite")


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


def itemised(variant: str, figure: str) -> tuple[float, Iterator[str]]:
    """Return the counted peak in GiB, and the lines of its table."""
    spec, architecture = get_variant(variant), architecture_of(get_variant(variant), None)
    assert architecture is not None
    d, placement = spec.defaults, placement_for(variant, figure)
    shape = {"frames": d.frames, "size": d.size, "precision": "bfloat16"}
    counted = account(spec, architecture, placement=placement, **shape)  # type: ignore[arg-type]
    estimate = estimate_memory(architecture, placement, **shape)  # type: ignore[arg-type]
    largest = max(counted, key=lambda phase: counted[phase].bytes)

    def lines() -> Iterator[str]:
        yield f"\n{variant}, {d.frames} frames of {d.size}, {figure} <= {CEILINGS[figure]} GiB"
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
            for item, size in sorted(peak.held.items(), key=lambda pair: -pair[1]):
                yield f"    {item:<28}{size / GIB:>7.2f}"
            yield f"    {'made by operations':<28}{peak.made_bytes / GIB:>7.2f}"
            for item, size in sorted(peak.alive.items(), key=lambda pair: -pair[1])[:6]:
                yield f"      {size / GIB:>6.2f}  {item}"

    return counted[largest].bytes / GIB, lines()


def main() -> None:
    figures: dict[str, float] = {}
    for figure in CEILINGS:
        for variant in VARIANTS:
            peak, lines = itemised(variant, figure)
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
            figures[figure] = round(max(peak, figures.get(figure, 0.0)), 2)
    told = [f"{name:<14}{gib:>6.2f} GiB  <= {CEILINGS[name]}" for name, gib in figures.items()]
    sys.stdout.write("\n".join(["", *told, json.dumps(figures)]) + "\n")


if __name__ == "__main__":
    main()
