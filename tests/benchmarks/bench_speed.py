"""What the lossy shortcuts save: `speed: cache` and `speed: distilled` against exact.

    python -m tests.benchmarks.bench_speed [--device cuda:0 [--full-size]]

Prints a table, and one JSON line last. A made model of random weights: its seconds compare, its
pictures say nothing of quality. At which threshold a cache skips depends on the weights, so here
the threshold is one at which about a third of the predictions are skipped; that share stands
beside the gain. The made LoRA was never trained to render in few steps, so the PSNR of `distilled`
shows only that it samples otherwise. On a CPU seconds are the processor's, on a GPU the clock's.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from lynx_engine.digest import digest_file
from lynx_engine.engine import RenderEngine
from lynx_engine.jobs import Lora, RenderJob
from lynx_engine.shapes import FrameSize
from lynx_engine.speed import DISTILLED, DISTILLED_STEPS, recorded_speed
from lynx_engine.variants import get_variant
from tests.support.renders import ASTRONAUT_LANDMARKS, astronaut, make_job
from tests.support.weights import Scale, write_public_layout

ROUNDS = 3
RANK = 32
THRESHOLD = 0.035


@dataclass(frozen=True)
class Size:
    """The model and the clip.

    Attributes:
        scale: The model's.
        size: Of the clip.
        frames: F.
        steps: Of the exact and the cached clip.
        precision: Of the transformer.
    """

    scale: Scale
    size: FrameSize
    frames: int
    steps: int
    precision: str


QUICK = Size(Scale(blocks=2, heads=2, head_width=32), FrameSize(64, 64), 5, 6, "float32")
CPU = Size(Scale(blocks=8, heads=4, head_width=64), FrameSize(192, 128), 13, 24, "float32")
GPU = Size(Scale(blocks=12, heads=16, head_width=128), FrameSize(832, 480), 41, 30, "bfloat16")
FULL = Size(Scale(blocks=40, heads=40, head_width=128), FrameSize(832, 480), 81, 20, "bfloat16")


def write_lora(path: Path, engine: RenderEngine) -> Lora:
    """Write a LoRA of every layer of the blocks: random, small, and of the usual rank."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name, module in engine.denoiser.transformer.blocks.named_modules():
        if isinstance(module, torch.nn.Linear):
            down = torch.randn(RANK, module.in_features, generator=generator)
            up = torch.randn(module.out_features, RANK, generator=generator)
            layer = f"transformer.blocks.{name}"
            tensors[f"{layer}.lora_A.weight"] = (down / module.in_features**0.5).bfloat16()
            tensors[f"{layer}.lora_B.weight"] = (0.01 * up / RANK**0.5).bfloat16()
    save_file(tensors, path)
    return Lora(digest_file(path), 1.0, path)


def seconds(engine: RenderEngine, job: RenderJob) -> tuple[float, torch.Tensor]:
    """Return the seconds of a clip from its keys and values to its latents, and these."""
    face = engine.embed_face(astronaut(), ASTRONAUT_LANDMARKS)
    # A busy neighbour takes time from the clock, and one thread computes here.
    now = time.process_time if engine.device.type == "cpu" else time.perf_counter
    started = now()
    with engine.loras.laid_over(job.loras):
        latents = engine.sample(job, engine.branches(job, face)).float().cpu()
    return now() - started, latents


def psnr(found: torch.Tensor, exact: torch.Tensor) -> float:
    span = exact.max() - exact.min()
    return 10 * math.log10((span**2 / (found - exact).square().mean()).item())


def measure(
    engine: RenderEngine, jobs: Mapping[str, RenderJob], *, rounds: int
) -> dict[str, dict[str, float]]:
    """Return seconds, PSNR and cached predictions of each job, interleaved, medians."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    latents: dict[str, torch.Tensor] = {}
    cached: dict[str, int] = {}
    for job in jobs.values():
        seconds(engine, replace(job, steps=2))  # texts, features and files are known after it
    for turn in range(rounds):
        for name in list(jobs)[:: -1 if turn % 2 else 1]:
            before = engine.counters.cached_passes
            took_s, latents[name] = seconds(engine, jobs[name])
            taken[name].append(took_s)
            cached[name] = engine.counters.cached_passes - before
    return {
        name: {
            "seconds": statistics.median(taken[name]),
            "psnr": psnr(latents[name], latents["exact"]) if name != "exact" else math.inf,
            "cached": cached[name],
        }
        for name in jobs
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full-size", action="store_true", help="14B: needs 40 GB of device")
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    chosen = parser.parse_args()
    big = FULL if chosen.full_size else GPU
    what = QUICK if chosen.quick else CPU if chosen.device == "cpu" else big
    if chosen.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_public_layout(Path(folder) / "models", what.scale)
        spec = replace(get_variant("lynx_full"), cache_threshold=THRESHOLD)
        engine = RenderEngine.load(
            spec,
            weights_dir=Path(folder) / "models",
            device=chosen.device,
            precision=what.precision,
        )
        exact = replace(
            make_job(spec.name),
            size=what.size,
            frames=what.frames,
            steps=what.steps,
            precision=what.precision,
        )
        distilled = replace(
            exact,
            speed=DISTILLED,
            steps=DISTILLED_STEPS,
            loras=(write_lora(Path(folder) / "a.safetensors", engine),),
        )
        cached = replace(exact, speed=recorded_speed("cache", cache_threshold=THRESHOLD))
        found = measure(
            engine,
            {"exact": exact, "cache": cached, "distilled": distilled},
            rounds=1 if chosen.quick else ROUNDS,
        )
    passes = {"exact": 3 * what.steps, "cache": 3 * what.steps, "distilled": DISTILLED_STEPS}
    lines = [f"{'':<10}{'s a clip':>9}{'gain':>7}{'psnr dB':>9}  predictions, of which cached"]
    for name, row in found.items():
        gain = found["exact"]["seconds"] / row["seconds"]
        lines.append(
            f"{name:<10}{row['seconds']:>9.2f}{gain:>6.2f}x{row['psnr']:>9.1f}  "
            f"{passes[name]}, {row['cached']:.0f}"
        )
    figures = {
        f"speed_{name}": round(found["exact"]["seconds"] / found[name]["seconds"], 2)
        for name in ("cache", "distilled")
    }
    figures |= {
        "speed_cache_psnr": round(found["cache"]["psnr"], 1),
        "speed_cache_share": round(found["cache"]["cached"] / passes["cache"], 3),
    }
    sys.stdout.write("\n".join([*lines, json.dumps(figures)]) + "\n")


if __name__ == "__main__":
    main()
