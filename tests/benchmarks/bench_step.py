"""P3 and P4: what a guided step costs beside stock diffusers, and beside the released method.

    python -m tests.benchmarks.bench_step [--quick]

Prints a table, and one JSON line last. The CPU form: width 512, 6 blocks, 1,950 tokens, one thread,
ratios of processor time.
"""

from __future__ import annotations

import json
import sys

import torch

from tests.benchmarks.figures import is_quick
from tests.benchmarks.guided_step import Shape, interleaved, make_step, processor_clock, steady

SHAPE = Shape(
    blocks=6,
    heads=4,
    head_width=128,
    ffn=1382,
    text_width=512,
    lite_width=256,
    cells=(13, 20, 30),
)
QUICK = Shape(
    blocks=2,
    heads=2,
    head_width=32,
    ffn=128,
    text_width=64,
    lite_width=64,
    cells=(3, 8, 8),
)
ROUNDS = 2


def ratios(variant: str) -> tuple[float, float]:
    """Return P3 and P4 of a variant: ours over stock, and the released method over ours."""
    shape = QUICK if is_quick() else SHAPE
    step = make_step(variant, shape, device=torch.device("cpu"), dtype=torch.float32)
    with steady(step):
        ways = (step.ours, step.without_adapters, step.restated)
        ours_s, stock_s, plain_s = interleaved(ways, ROUNDS, processor_clock)
    return ours_s / stock_s, plain_s / ours_s


def main() -> None:
    torch.set_num_threads(1)
    wanted = {"P3": "<= 1.08", "P3_lite": "", "P4": ">= 1.0", "P4_lite": ">= 1.0"}
    figures: dict[str, float] = {}
    for suffix, variant in (("", "lynx_full"), ("_lite", "lynx_lite")):
        p3, p4 = ratios(variant)
        figures |= {f"P3{suffix}": round(p3, 3), f"P4{suffix}": round(p4, 3)}
    told = [f"{name:<10}{figures[name]:>8}  {limit}" for name, limit in wanted.items()]
    sys.stdout.write("\n".join([*told, json.dumps(figures)]) + "\n")


if __name__ == "__main__":
    main()
