"""P3, P4, P5 and P10 on a GPU: a guided step of the 14B models on random weights, at real size.

    python -m tests.benchmarks.bench_gpu            # one GPU with 100 GB, below ten minutes
    python -m tests.benchmarks.bench_gpu --parts tiers     # P10 alone; it comes last otherwise
    python -m tests.benchmarks.bench_gpu --quick    # small, on any machine: the script itself

Prints a table, and one JSON line last. It downloads nothing, and needs torch, diffusers and what
diffusers needs, nothing else. Names that end in `_compiled` compare compiled with compiled.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from lynx_engine.diffusion.sampler import sample
from lynx_engine.diffusion.schedule import start_schedule
from lynx_engine.models.backends import BACKENDS, BackendError, choose_attention
from lynx_engine.models.tiny_layout import SCHEDULER
from lynx_engine.models.wan import WanDenoiser, attention_on, facts_on
from tests.benchmarks.gpu_memory import bench_tiers
from tests.benchmarks.guided_step import (
    GuidedStep,
    RandomTensors,
    Shape,
    interleaved,
    make_step,
    make_transformer,
    steady,
)

BIG = Shape(
    blocks=40,
    heads=40,
    head_width=128,
    ffn=13824,
    text_width=4096,
    lite_width=2048,
    cells=(21, 60, 104),
)
SMALL = Shape(
    blocks=2, heads=2, head_width=24, ffn=96, text_width=32, lite_width=40, cells=(2, 8, 6)
)
FRAMES = {"lynx_full": 21, "lynx_lite": 31}
"""Latent frames of 81 and 121."""
NOMINAL_TFLOPS = 790.0


@dataclass(slots=True)
class Bench:
    """One run.

    Attributes:
        quick: Whether sizes are small.
        ends_at: When to stop beginning anything, by `time.monotonic`.
        figures: What was measured, by name.
    """

    quick: bool
    ends_at: float
    device: torch.device = field(init=False)
    figures: dict[str, float | str] = field(default_factory=dict[str, "float | str"])

    def __post_init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def tell(self, name: str, value: float | str) -> None:
        """Keep a figure and print it at once: a run that is cut short has told what it knew."""
        self.figures[name] = value if isinstance(value, str) else float(f"{value:.4g}")
        sys.stdout.write(f"{name:<32}{self.figures[name]:>14}\n")
        sys.stdout.flush()

    def has_time(self, part: str, needs_s: float) -> bool:
        """Return whether a part may begin; tell which could not."""
        fits = self.quick or time.monotonic() + needs_s < self.ends_at
        if not fits:
            self.tell(f"left_out_{part}", "no time")
        return fits

    def clock(self, work: Callable[[], object]) -> float:
        """Return the device's seconds; they must be near those on the wall."""
        if self.device.type == "cpu":
            started = time.perf_counter()
            work()
            return time.perf_counter() - started
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        started = time.perf_counter()
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        wall_s = time.perf_counter() - started
        device_s = begin.elapsed_time(end) / 1000
        worst = max(float(self.figures.get("wall_over_events", 0)), wall_s / device_s)
        self.figures["wall_over_events"] = round(worst, 4)
        return device_s


def sustained_tflops(bench: Bench) -> float:
    """Return the rate of large bf16 matrix products, held for seconds."""
    size, repeats, runs = (256, 1, 2) if bench.quick else (8192, 40, 20)
    a, b = (
        torch.randn(size, size, device=bench.device, dtype=torch.float32).to(torch.bfloat16)
        for _ in range(2)
    )
    out = torch.empty_like(a)

    def products() -> None:
        for _ in range(repeats):
            torch.mm(a, b, out=out)

    products()
    rates = [2 * size**3 * repeats / bench.clock(products) / 1e12 for _ in range(runs)]
    # The first runs are faster than what a card can hold.
    held = rates[len(rates) // 2 :]
    return sum(held) / len(held)


def bench_attention(bench: Bench, shape: Shape) -> None:
    """Tell the rate of each attention backend that runs, at the shape of self-attention."""
    draw = RandomTensors(bench.device, torch.bfloat16).draw
    size = (1, shape.tokens, shape.heads, shape.head_width)
    query, key, value = (draw(*size, std=1) for _ in range(3))
    flops = 4 * shape.tokens**2 * shape.width
    for backend in BACKENDS:
        try:
            choice = choose_attention(backend.name, facts_on(bench.device, "bfloat16"))
        except BackendError as error:
            sys.stdout.write(f"{backend.title}: left out. {error}\n")
            continue
        name = AttentionBackendName(choice.dispatcher)

        def attend(name: AttentionBackendName = name) -> None:
            dispatch_attention_fn(query, key, value, backend=name)

        attend()
        seconds = min(bench.clock(attend) for _ in range(3))
        bench.tell(f"attention_{backend.name}_tflops", flops / seconds / 1e12)


def bench_syncs(bench: Bench, step: GuidedStep) -> None:
    """Sample a small clip and let torch refuse whatever waits for the device.

    From the second step on: before the first one the timesteps are moved, once a clip.
    """
    noise = step.latents[:, :, :2, :8, :8].contiguous()
    branches = [
        lambda x, t, text=text, kv=kv: step.denoiser.velocity(x, t, text=text, adapters=kv)
        for text, kv in zip(step.texts, step.adapters, strict=True)
    ]

    def refuse(*_: int) -> None:
        if bench.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")

    def run(on_step: Callable[[int, int], None] | None = None) -> None:
        with step.denoiser.clip("normal"):
            sample(
                noise,
                branches,
                schedule=start_schedule(SCHEDULER, steps=4),
                guidance=step.guidance,
                one_step=step.denoiser.step,
                on_step=on_step,
            )

    run()
    try:
        run(refuse)
    except RuntimeError as error:
        # The figures to come are worth more than this one.
        bench.tell("syncs_in_sampling", " ".join(str(error).split())[:80])
        return
    finally:
        if bench.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    if bench.device.type == "cuda":
        bench.tell("syncs_in_sampling", 0)


def bench_variant(bench: Bench, variant: str, transformer: WanTransformer3DModel) -> None:
    """Tell P3, P4 and P5 of one variant."""
    short = variant.removeprefix("lynx_")
    shape = SMALL if bench.quick else replace(BIG, cells=(FRAMES[variant], *BIG.cells[1:]))
    attention = attention_on(bench.device, "auto", "bfloat16")
    step = make_step(
        variant,
        shape,
        device=bench.device,
        dtype=torch.bfloat16,
        attention=attention,
        transformer=transformer,
    )
    flops = step.passes * shape.flops_of_pass
    bench_syncs(bench, step)
    if bench.has_time(f"{short}_eager", 100):
        with steady(step):
            step.without_adapters()
            ways = (step.ours, step.without_adapters, step.restated)
            ours_s, stock_s, plain_s = interleaved(ways, 1, bench.clock)
        bench.tell(f"{short}_step_s", ours_s)
        bench.tell(f"P3_{short}", ours_s / stock_s)
        bench.tell(f"P4_{short}", plain_s / ours_s)
    if bench.has_time(f"{short}_compiled", 180):
        _bench_compiled(bench, step, short, flops)


def _bench_compiled(bench: Bench, step: GuidedStep, short: str, flops: float) -> None:
    denoiser = WanDenoiser(
        step.denoiser.transformer,
        step.denoiser.spec,
        attention=step.denoiser.attention,
        compiles=True,
    )
    step = replace(step, denoiser=denoiser)
    step.stock.compile_repeated_blocks(fullgraph=True, dynamic=False)
    with steady(step):
        step.ours()
        if not denoiser.compiles_for("normal"):
            bench.tell(f"left_out_{short}_compiled", "torch.compile failed")
            return
        step.without_adapters()
        ways = (step.ours, step.without_adapters)
        ours_s, stock_s = interleaved(ways, 1, bench.clock)
    bench.tell(f"{short}_step_s_compiled", ours_s)
    bench.tell(f"P3_{short}_compiled", ours_s / stock_s)
    bench.tell(f"{short}_tflops", flops / ours_s / 1e12)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_gpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, on any machine")
    parser.add_argument("--variants", default="lynx_full,lynx_lite", help="which, in which order")
    parser.add_argument("--parts", default="steps,tiers", help="P3 to P5, P10, or both")
    parser.add_argument("--budget-s", type=float, default=570.0, help="seconds in all")
    return parser.parse_args(arguments)


@torch.inference_mode()
def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    bench = Bench(options.quick, time.monotonic() + options.budget_s)
    if not options.quick and bench.device.type == "cpu":
        sys.exit("No GPU is to be seen. --quick tries the script on a CPU.")
    shape = SMALL if options.quick else BIG
    transformer = make_transformer(shape, RandomTensors(bench.device, torch.bfloat16))
    if "steps" in options.parts:
        _bench_steps(bench, shape, transformer, options.variants.split(","))
    if "tiers" in options.parts and bench.has_time("tiers", 240):
        # Else what was compiled may hold the stock model, whose weights are those that leave.
        torch._dynamo.reset()
        attention = attention_on(bench.device, "auto", "bfloat16")
        bench_tiers(
            shape, transformer, attention, quick=bench.quick, clock=bench.clock, tell=bench.tell
        )
    for name, text in (("torch", torch.__version__), ("device", _device_name(bench.device))):
        bench.tell(name, text)
    sys.stdout.write(json.dumps(bench.figures) + "\n")


def _bench_steps(
    bench: Bench, shape: Shape, transformer: WanTransformer3DModel, variants: Sequence[str]
) -> None:
    """Tell P3, P4 and P5, between two looks at what the card sustains."""
    before = sustained_tflops(bench)
    bench_attention(bench, shape)
    for variant in variants:
        bench_variant(bench, variant, transformer)
    after = sustained_tflops(bench)
    bench.tell("sustained_tflops_before", before)
    bench.tell("sustained_tflops_after", after)
    for variant in variants:
        short = variant.removeprefix("lynx_")
        if f"{short}_tflops" not in bench.figures:
            continue
        rate = float(bench.figures[f"{short}_tflops"])
        bench.tell(f"P5_{short}", rate / ((before + after) / 2))
        bench.tell(f"P5_{short}_of_790", rate / NOMINAL_TFLOPS)
    if bench.device.type == "cuda":
        # With the adapters' weights, which an engine has in host memory: no figure of P10.
        bench.tell("peak_gib_with_adapters", torch.cuda.max_memory_allocated() / 2**30)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    main(sys.argv[1:])
