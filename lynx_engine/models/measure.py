"""Measures how fast a device runs the parts of a clip, with random weights of the true size.

One block stands for all of them, one layer of the text encoder for the others: nothing is
downloaded, and a 14B model is measured in little more than the memory of a block. What the numbers
mean for a clip is `capacity.cost`'s business.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn

from lynx_engine.capacity.architecture import REFERENCE_TOKENS, TEXT_TOKENS, Architecture
from lynx_engine.capacity.calibration import Calibration
from lynx_engine.capacity.cost import Speeds
from lynx_engine.capacity.machine import cpu_name
from lynx_engine.diffusion.guidance import IdentityGuidance, TextGuidance
from lynx_engine.diffusion.sampler import sample
from lynx_engine.diffusion.schedule import start_schedule
from lynx_engine.models.attention import AdapterKV, KeyValue
from lynx_engine.models.device import PRECISIONS
from lynx_engine.models.tiny_layout import SCHEDULER
from lynx_engine.models.wan import WanDenoiser, attention_on

if TYPE_CHECKING:
    from lynx_engine.variants.spec import VariantSpec

_MOST_BLOCKS = 3
# Latent cells T, h, w, from the smallest clip to 121 frames of 832x480.
_SHAPES = (
    (2, 8, 8),
    (3, 16, 16),
    (5, 20, 20),
    (5, 32, 32),
    (5, 60, 104),
    (11, 60, 104),
    (21, 60, 104),
    (31, 60, 104),
)
# Latent frames and side in pixels of the clips decoded.
_CLIPS = ((2, 64), (3, 64), (3, 128), (5, 256), (5, 480))
_LEAST_S = 0.05
_MATRIX = {"cuda": 8192, "cpu": 1536}
_UPLOAD_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of a block and of a whole pass of one block over L tokens."""

    tokens: int
    block_s: float
    rest_s: float


def calibrate_on(
    spec: VariantSpec,
    architecture: Architecture,
    *,
    device: str,
    precision: str,
    threads: int,
    budget_s: float = 60.0,
) -> Calibration:
    """As `calibrate`, with torch's name of a device, and as many CPU threads as a worker has."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return calibrate(
            spec,
            architecture,
            device=torch.device(device),
            precision=precision,
            budget_s=budget_s,
        )
    finally:
        torch.set_num_threads(before)


def calibrate(
    spec: VariantSpec,
    architecture: Architecture,
    *,
    device: torch.device,
    precision: str,
    budget_s: float = 60.0,
) -> Calibration:
    """Measure one variant on one device, in about `budget_s` seconds.

    Larger clips are measured only while there is time; a slow device is judged by small ones.

    Args:
        spec: The variant, for its adapters.
        architecture: Its dimensions.
        device: Where to measure.
        precision: float32, bfloat16 or float16.
        budget_s: Seconds for all of it, loosely kept.
    """
    dtype = PRECISIONS[precision]
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        matrix_rate = measure_matrix_rate(device, dtype)
        denoiser = _one_block(spec, architecture, device, dtype)
        backend = str(denoiser.attention)
        timings = _time_blocks(denoiser, architecture, budget_s=0.5 * budget_s)
        del denoiser
        speeds = Speeds(
            matrix_rate=matrix_rate,
            upload_rate=measure_upload_rate(device),
            block_s=fit_block(timings, architecture, matrix_rate),
            pass_s=fit_line([(t.tokens, t.rest_s, t.block_s + t.rest_s) for t in timings]),
            step_s=_time_step(architecture, device),
            text_layer_s=_time_text_layer(architecture, device, dtype),
            decode_s=fit_line(_time_decodes(architecture, device, budget_s=0.25 * budget_s)),
        )
    return Calibration(
        device_name=device_name(device),
        torch_version=torch.__version__.partition("+")[0],
        backend=backend,
        precision=precision,
        architecture=architecture.key,
        threads=torch.get_num_threads(),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        speeds=speeds,
    )


def device_name(device: torch.device) -> str:
    """Return the device's own name, as nvidia-smi and the system tell it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def measure_matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return sustained operations a second of a large matrix product."""
    side = _MATRIX.get(device.type, _MATRIX["cpu"])
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: left @ right, device, least_s=0.5)


def measure_upload_rate(device: torch.device) -> float:
    """Return bytes a second from pinned host memory to the device; 0.0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    host = torch.empty(_UPLOAD_BYTES, dtype=torch.uint8, pin_memory=True)
    place = torch.empty(_UPLOAD_BYTES, dtype=torch.uint8, device=device)
    return _UPLOAD_BYTES / seconds_of(lambda: place.copy_(host, non_blocking=True), device)


def seconds_of(
    work: Callable[[], object], device: torch.device, *, least_s: float = _LEAST_S
) -> float:
    """Return the seconds of `work`, repeated for at least `least_s` and three times.

    On a GPU the median. On a CPU the fastest, the first run aside: what else the machine does only
    ever adds, and has tripled medians. One that takes long is run once after its first run, one
    that takes very long only once.
    """
    first = _once(work, device)
    if first > 20 * least_s:
        return first
    taken = [_once(work, device)]
    while len(taken) < 3 or sum(taken) < least_s:
        if first > 4 * least_s:
            break
        taken.append(_once(work, device))
    return min(taken) if device.type == "cpu" else statistics.median(taken)


def fit_block(
    timings: Sequence[Timing], architecture: Architecture, matrix_rate: float
) -> tuple[float, float, float]:
    """Return c, a, b of seconds = c + a L + b L^2, none negative, by relative least squares.

    Where only short clips were measured their attention does not show; b is then at least what
    4 L^2 D operations take at the rate of a matrix product.
    """
    c, a, b = _fit([(t.tokens, t.block_s, t.block_s) for t in timings], powers=(0, 1, 2))
    least = 4 * architecture.transformer.width / matrix_rate
    longest = max(t.tokens for t in timings)
    if longest < architecture.transformer.width and b < least:
        return (c, a, least)
    return (c, a, b)


def fit_line(points: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    """Return c, a of seconds = c + a n, none negative, by least squares.

    Args:
        points: n, seconds, and the seconds that its miss is relative to.
    """
    c, a = _fit(points, powers=(0, 1))
    return (c, a)


def _fit(points: Sequence[tuple[int, float, float]], *, powers: Sequence[int]) -> list[float]:
    """Return a coefficient for each power: of all choices without negative ones, the closest."""
    sizes, seconds, scales = (np.array(column, np.float64) for column in zip(*points, strict=True))
    best, error = [0.0] * len(powers), math.inf
    for chosen in range(1, 2 ** len(powers)):
        used = [k for k in range(len(powers)) if chosen >> k & 1]
        if len(used) > len(points):
            continue
        rows = np.stack([sizes ** powers[k] for k in used], axis=1) / scales[:, None]
        found, *_ = np.linalg.lstsq(rows, seconds / scales, rcond=None)
        miss = float(np.square(rows @ found - seconds / scales).sum())
        if (found >= 0).all() and miss < error:
            best, error = [0.0] * len(powers), miss
            for k, value in zip(used, found, strict=True):
                best[k] = float(value)
    return best


def _time_blocks(
    denoiser: WanDenoiser, architecture: Architecture, *, budget_s: float
) -> list[Timing]:
    t = architecture.transformer
    transformer, device = denoiser.transformer, denoiser.transformer.device
    dtype = transformer.dtype
    block = transformer.blocks[0]
    one, three = nn.ModuleList([block]), nn.ModuleList([block] * _MOST_BLOCKS)
    adapters = _random_adapters(architecture, device, dtype)
    text = torch.randn(1, TEXT_TOKENS, t.text_width, device=device).to(dtype)
    at = torch.full((1,), 500.0, device=device)
    timings: list[Timing] = []
    ends = time.perf_counter() + budget_s
    for cells in _SHAPES:
        tokens = math.prod(n // step for n, step in zip(cells, t.cell, strict=True))
        if len(timings) > 1:
            last = timings[-1]
            growth = tokens / last.tokens
            # Eight blocks, run twice unless they are slow; attention grows faster than tokens.
            expected = 16 * (last.block_s + last.rest_s) * growth**1.2
            if time.perf_counter() + expected > ends:
                break
        latents = torch.randn(1, t.channels, *cells, device=device)

        def timed(blocks: nn.ModuleList, latents: torch.Tensor = latents) -> float:
            transformer.blocks = blocks
            # As in a clip, whose first step makes the text's keys and values for all others.
            with denoiser.clip("normal"):
                return seconds_of(
                    lambda: denoiser.velocity(latents, at, text=text, adapters=adapters), device
                )

        rounds = [timed(blocks) for blocks in (one, three, three, one)]
        shorts, longs = (rounds[0], rounds[3]), (rounds[1], rounds[2])
        # As in `seconds_of`.
        short, long = map(min if device.type == "cpu" else statistics.fmean, (shorts, longs))
        block_s = max((long - short) / 2, 1e-7)
        timings.append(Timing(tokens, block_s, max(short - block_s, 0.0)))
    return timings


def _one_block(
    spec: VariantSpec, architecture: Architecture, device: torch.device, dtype: torch.dtype
) -> WanDenoiser:
    t = architecture.transformer
    with torch.device("meta"):
        transformer = WanTransformer3DModel(
            patch_size=t.cell,
            num_attention_heads=t.heads,
            attention_head_dim=t.head_width,
            in_channels=t.channels,
            out_channels=t.channels,
            text_dim=t.text_width,
            freq_dim=t.frequency_width,
            ffn_dim=t.ffn_width,
            num_layers=1,
        )
    exact = frozenset(WanTransformer3DModel._keep_in_fp32_modules or ())
    _fill(transformer, device, dtype, exact=exact)
    # The rotary angles are computed, not loaded: those of a random model would be as wrong.
    rope = type(transformer.rope)(t.head_width, t.cell, 1024)
    transformer.rope = rope.to(device=device, dtype=torch.float32)
    precision = next(name for name, kind in PRECISIONS.items() if kind is dtype)
    attention = attention_on(device, "auto", precision)
    return WanDenoiser(transformer.eval(), spec, attention=attention)


def _fill(
    network: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    *,
    exact: Iterable[str] = (),
) -> None:
    """Give every weight random numbers, N(0, 0.02): zeros would be read faster than weights."""
    kept = set(exact)
    for name, weight in list(network.named_parameters(remove_duplicate=False)):
        kind = dtype if kept.isdisjoint(name.split(".")) else torch.float32
        owner = network.get_submodule(name.rpartition(".")[0])
        filled = torch.empty(weight.shape, device=device, dtype=kind).normal_(0, 0.02)
        setattr(owner, name.rpartition(".")[2], nn.Parameter(filled, requires_grad=False))


def _random_adapters(
    architecture: Architecture, device: torch.device, dtype: torch.dtype
) -> AdapterKV:
    t, a = architecture.transformer, architecture.adapters
    if a is None:
        return AdapterKV()

    def pair(length: int) -> KeyValue:
        shape = (1, length, t.heads, t.head_width)
        key, value = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
        return KeyValue(key, value)

    # One pair serves every block: its numbers do not matter, its size does.
    blocks = range(_MOST_BLOCKS)
    identity = dict.fromkeys(blocks, pair(a.tokens + a.registers))
    reference = dict.fromkeys(blocks, pair(REFERENCE_TOKENS)) if a.reference else {}
    return AdapterKV(identity, reference)


def _time_step(architecture: Architecture, device: torch.device) -> float:
    """Return seconds of solver and guidance alone."""
    noise = torch.randn(1, architecture.transformer.channels, 3, 8, 8, device=device)
    many = architecture.branches == 3
    guidance = IdentityGuidance(5.0, 2.0) if many else TextGuidance(5.0)
    branches = [lambda latents, _: torch.zeros_like(latents)] * architecture.branches
    steps = 8

    def work() -> torch.Tensor:
        schedule = start_schedule(dict(SCHEDULER), steps=steps)
        return sample(noise, branches, schedule=schedule, guidance=guidance)

    return seconds_of(work, device) / steps


def _time_text_layer(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> float:
    from transformers import UMT5Config, UMT5EncoderModel

    x = architecture.text
    settings = UMT5Config(
        num_layers=1,
        d_model=x.width,
        d_kv=x.inner // x.heads,
        num_heads=x.heads,
        d_ff=x.ffn_width,
        vocab_size=16,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        encoder = UMT5EncoderModel(settings)
    _fill(encoder, device, dtype)
    # A prompt of some 100 words.
    ids = torch.zeros(1, 128, dtype=torch.int64, device=device)
    return seconds_of(lambda: encoder.eval()(ids), device)


def _time_decodes(
    architecture: Architecture, device: torch.device, *, budget_s: float
) -> list[tuple[int, float, float]]:
    v = architecture.vae
    with torch.device("meta"):
        vae = AutoencoderKLWan(
            base_dim=v.base,
            z_dim=v.channels,
            dim_mult=list(v.multiples),
            num_res_blocks=v.residuals,
            temperal_downsample=list(v.halves_time),
        )
    _fill(vae, device, torch.float32)
    points: list[tuple[int, float, float]] = []
    ends = time.perf_counter() + budget_s
    for latent_frames, side in _CLIPS:
        pixels = (4 * (latent_frames - 1) + 1) * side**2
        if len(points) > 1:
            expected = 3 * points[-1][1] * pixels / points[-1][0]
            if time.perf_counter() + expected > ends:
                break
        shape = (1, v.channels, latent_frames, side // 8, side // 8)
        latents = torch.randn(shape, device=device)
        taken = seconds_of(
            lambda latents=latents: vae.eval().decode(latents, return_dict=False), device
        )
        points.append((pixels, taken, taken))
    return points


def _once(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
