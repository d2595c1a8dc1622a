"""A job that does not fit its device goes down the memory ladder and stays the same job."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lynx_engine.engine import RenderEngine, Rendering
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.jobs import RenderJob
from lynx_engine.models.checkpoint import ensure_weights
from lynx_engine.models.device import free_memory_bytes
from lynx_engine.models.memory import MemoryLadder, SizedCache, readable_bytes
from lynx_engine.models.residence import Residence
from lynx_engine.models.tiers import SAMPLING_RUNGS, TILED_DECODING_RUNGS
from lynx_engine.provenance.record import _work  # pyright: ignore[reportPrivateUsage]
from lynx_engine.results import Conditions, WorkerFacts
from lynx_engine.variants import get_variant
from tests.support.renders import ASTRONAUT_LANDMARKS, astronaut, make_job

RUNGS = ("first", "second", "third")
JOB = replace(make_job("tiny"), frames=5, steps=2)
STRICT = replace(JOB, numerics="strict")


def load(weights: Path, device: str = "cpu") -> RenderEngine:
    return RenderEngine.load(
        get_variant("tiny"), weights_dir=weights, device=device, precision="float32"
    )


def render(engine: RenderEngine, job: RenderJob = JOB) -> Rendering:
    return engine.render(job, engine.embed_face(astronaut(), ASTRONAUT_LANDMARKS))


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    return ensure_weights(get_variant("tiny"), models_dir=cache, cache_dir=cache)


@pytest.fixture(scope="module")
def plain(tiny_weights: Path) -> np.ndarray:
    return render(load(tiny_weights)).frames


@pytest.fixture
def tiny(tiny_weights: Path) -> RenderEngine:
    return load(tiny_weights)


def part_of(engine: RenderEngine, stage: str) -> tuple[Any, str]:
    """Return the object and method that does a part of a stage's work, several times a job."""
    vae: Any = engine._vae
    text: Any = engine.conditioning._text
    return {
        "text": (text._encoder.encoder.block[1], "forward"),
        "denoise": (engine.denoiser, "velocity"),
        "decode": (vae._vae.decoder, "forward"),
    }[stage]


def run_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, engine: RenderEngine, stage: str, *, times: int
) -> list[int]:
    """Let a stage fail in its second call, on its first `times` tries; return the call numbers."""
    owner, method = part_of(engine, stage)
    work, calls = getattr(owner, method), list[int]()

    def part(*args: object, **named: object) -> object:
        calls.append(len(calls) + 1)
        if calls[-1] <= 2 * times and calls[-1] % 2 == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return work(*args, **named)

    monkeypatch.setattr(owner, method, part)
    return calls


@pytest.mark.parametrize(
    ("stage", "times", "rungs"),
    [
        ("text", 1, ("free_caches",)),
        ("text", 2, ("free_caches", "others_wait")),
        ("denoise", 1, ("free_caches",)),
        ("denoise", 2, ("free_caches", "others_wait")),
        ("denoise", 4, ("free_caches", "others_wait", "stream_quarter", "stream_half")),
        ("denoise", 6, SAMPLING_RUNGS),
        ("decode", 1, ("free_caches",)),
        ("decode", 3, ("free_caches", "others_wait", "blocks_leave")),
    ],
)
def test_rungs_that_move_no_bit_come_first_and_move_none(
    tiny: RenderEngine,
    plain: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    *,
    stage: str,
    times: int,
    rungs: tuple[str, ...],
) -> None:
    run_out_of_memory(monkeypatch, tiny, stage, times=times)
    rendering = render(tiny)
    assert rendering.conditions.memory_rungs == rungs
    np.testing.assert_array_equal(rendering.frames, plain)


def test_strict_job_skips_the_rung_that_moves_bits(
    tiny: RenderEngine, plain: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_out_of_memory(monkeypatch, tiny, "decode", times=3)
    rendering = render(tiny, STRICT)
    assert rendering.conditions.memory_rungs == ("free_caches", "others_wait", "blocks_leave")
    assert not rendering.conditions.vae_tiled
    np.testing.assert_array_equal(rendering.frames, plain)


def tiling_flags(monkeypatch: pytest.MonkeyPatch, engine: RenderEngine) -> list[bool]:
    vae: Any = engine._vae._vae
    decode, flags = vae.decode, list[bool]()

    def seen(*args: object, **named: object) -> object:
        flags.append(vae.use_tiling)
        return decode(*args, **named)

    monkeypatch.setattr(vae, "decode", seen)
    return flags


def test_tiling_is_on_for_the_decode_that_did_not_fit_and_off_for_the_next_job(
    tiny: RenderEngine, plain: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = tiling_flags(monkeypatch, tiny)
    run_out_of_memory(monkeypatch, tiny, "decode", times=4)
    conditions = render(tiny).conditions
    assert conditions.memory_rungs == TILED_DECODING_RUNGS
    assert conditions.vae_tiled
    after = render(tiny)
    assert flags == [False, False, False, False, True, False]
    assert after.conditions.memory_rungs == ("others_wait", "blocks_leave")
    assert not after.conditions.vae_tiled
    np.testing.assert_array_equal(after.frames, plain)


def test_tiling_is_off_after_a_decode_that_failed(
    tiny: RenderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_out_of_memory(monkeypatch, tiny, "decode", times=9)
    with pytest.raises(RowError):
        render(tiny)
    vae: Any = tiny._vae._vae
    assert not vae.use_tiling


def test_tiled_frames_are_near_the_whole_ones_and_made_of_tiles(
    tiny: RenderEngine, plain: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae: Any = tiny._vae._vae
    # The clip is 64 pixels wide, less than one tile of the usual 256.
    vae.tile_sample_min_height = vae.tile_sample_min_width = 48
    vae.tile_sample_stride_height = vae.tile_sample_stride_width = 32
    widths: list[int] = []
    vae.decoder.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[-1]))
    run_out_of_memory(monkeypatch, tiny, "decode", times=4)
    rendering = render(tiny)
    assert rendering.conditions.memory_rungs == TILED_DECODING_RUNGS
    # Cells of 8 pixels: four failed tries see the whole width of 8, then tiles of 6 and the rest.
    assert (set(widths[:8]), set(widths[8:])) == ({8}, {6, 4})
    difference = rendering.frames.astype(np.float64) - plain
    psnr_db = 10 * np.log10(255**2 / np.square(difference).mean())
    # 28 dB, as a tile of this size sees little; another seed's picture is 13 dB away.
    assert 20 < psnr_db < 60


def test_decode_that_did_not_fit_is_tried_again_without_sampling_again(
    tiny: RenderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = run_out_of_memory(monkeypatch, tiny, "denoise", times=0)
    run_out_of_memory(monkeypatch, tiny, "decode", times=4)
    assert render(tiny).conditions.memory_rungs == TILED_DECODING_RUNGS
    assert len(steps) == 3 * JOB.steps
    assert tiny.counters.vae_decodes == 5


def test_each_rung_is_taken_once_a_job_whatever_part_needs_it(
    tiny: RenderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_out_of_memory(monkeypatch, tiny, "denoise", times=2)
    run_out_of_memory(monkeypatch, tiny, "decode", times=2)
    assert render(tiny).conditions.memory_rungs == (*SAMPLING_RUNGS[:2], *TILED_DECODING_RUNGS[2:])


def test_freed_caches_are_filled_anew(tiny: RenderEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    render(tiny)
    counted = replace(tiny.counters)
    run_out_of_memory(monkeypatch, tiny, "decode", times=1)
    render(tiny)
    assert tiny.counters.text_encodes == counted.text_encodes
    render(tiny)
    assert tiny.counters.text_encodes == 2 * counted.text_encodes
    assert tiny.counters.face_runs == 2 * counted.face_runs
    assert tiny.counters.reference_passes == 2 * counted.reference_passes


def test_cleared_cache_has_its_whole_budget_again() -> None:
    cache = SizedCache[bytes](10, len)
    cache.get_or_make("a", lambda: b"12345678")
    cache.clear()
    cache.get_or_make("b", lambda: b"12345")
    cache.get_or_make("c", lambda: b"12345")
    assert cache.get_or_make("b", lambda: b"made again") == b"12345"


def test_what_did_not_fit_stays_below_for_jobs_as_large_and_not_for_smaller_ones(
    tiny: RenderEngine, plain: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        run_out_of_memory(patched, tiny, "denoise", times=3)
        render(tiny)
    later = render(tiny)
    assert later.conditions.memory_rungs == ("others_wait", "stream_quarter")
    assert (later.conditions.memory_tier, later.conditions.streamed_blocks) == ("balanced", 1)
    np.testing.assert_array_equal(later.frames, plain)
    smaller = render(tiny, replace(JOB, frames=1)).conditions
    assert (smaller.memory_rungs, smaller.memory_tier) == ((), "resident")
    run_out_of_memory(monkeypatch, tiny, "decode", times=1)
    again = render(tiny).conditions
    assert again.memory_rungs == ("others_wait", "stream_quarter", "free_caches")


def test_rung_that_a_placement_holds_already_is_not_taken(
    tiny: RenderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_out_of_memory(monkeypatch, tiny, "denoise", times=2)
    conditions = render(tiny, replace(JOB, memory="balanced")).conditions
    assert conditions.memory_rungs == ("free_caches", "stream_all")
    assert (conditions.memory_tier, conditions.streamed_blocks) == ("low", 4)


def test_model_that_does_not_fit_while_it_loads_is_loaded_lower(
    tiny_weights: Path, plain: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A device with room for all but the matrices of two of the four blocks.
    bring = Residence.bring

    def into_little_room(self: Residence, numbers: dict[str, torch.Tensor | None]) -> None:
        bring(self, numbers)
        if len([n for n in self._present if n.startswith("blocks.") and n.endswith("weight")]) > 45:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(Residence, "bring", into_little_room)
    rendering = render(load(tiny_weights))
    assert rendering.conditions.memory_rungs == ("others_wait", "stream_quarter", "stream_half")
    assert rendering.conditions.memory_tier == "balanced"
    np.testing.assert_array_equal(rendering.frames, plain)


FIGURES = r"Peak memory [\d.]+ [KMG]iB; [\d.]+ [MGT]iB of [\d.]+ [GT]iB free on cpu\."


@pytest.mark.parametrize(
    ("job", "stage", "tried"),
    [
        (JOB, "decode", ", ".join(TILED_DECODING_RUNGS)),
        (JOB, "denoise", ", ".join(SAMPLING_RUNGS)),
        (STRICT, "decode", "free_caches, others_wait, blocks_leave"),
    ],
)
def test_job_that_fits_nowhere_names_the_rungs_the_peak_and_the_free_memory(
    tiny: RenderEngine,
    plain: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    *,
    job: RenderJob,
    stage: str,
    tried: str,
) -> None:
    with monkeypatch.context() as patched:
        run_out_of_memory(patched, tiny, stage, times=9)
        letter = (
            r"^5 frames of 64x64 did not fit: .*Tried to allocate 20\.00 GiB.* Choose fewer frames"
            rf".* Tried: {tried}\. {FIGURES}$"
        )
        with pytest.raises(RowError, match=letter) as caught:
            render(tiny, job)
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY
    np.testing.assert_array_equal(render(tiny).frames, plain)


def test_each_rung_is_logged_before_it_is_tried(
    tiny: RenderEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_out_of_memory(monkeypatch, tiny, "decode", times=4)
    render(tiny)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 4
    for message, rung in zip(caplog.messages, TILED_DECODING_RUNGS, strict=True):
        assert message.startswith("5 frames of 64x64 did not fit. Peak memory")
        assert message.endswith(f"Trying again with {rung}.")


def failing_with(failure: Callable[[], None], *, job: str = "it") -> tuple[MemoryLadder, list[str]]:
    taken: list[str] = []

    def take(rung: str) -> bool:
        taken.append(rung)
        return True

    ladder = MemoryLadder(take, what=f"{job} did not fit", device=torch.device("cpu"))
    with pytest.raises(RowError):
        ladder.fit(failure, rungs=RUNGS)
    return ladder, taken


def test_only_a_want_of_memory_goes_down_the_ladder() -> None:
    def fail() -> None:
        raise RowError(ErrorCode.BAD_FRAMES, "NaN")

    ladder, taken = failing_with(fail)
    assert (ladder.taken, taken) == ((), [])


def test_part_that_says_itself_that_memory_ran_out_goes_down_too() -> None:
    def fail() -> None:
        raise RowError(ErrorCode.OUT_OF_MEMORY, "full")

    ladder, taken = failing_with(fail)
    assert ladder.taken == RUNGS == tuple(taken)


def test_failed_try_holds_no_tensor_when_the_next_begins() -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def fail() -> None:
        alive.extend(tensor() is not None for tensor in held)
        large = torch.zeros(1000)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory")

    failing_with(fail)
    assert len(held) == len(RUNGS) + 1
    assert not any(alive)
    assert [tensor() for tensor in held] == [None] * len(held)


def test_failed_decode_leaves_no_frames_in_the_autoencoder(
    tiny: RenderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae: Any = tiny._vae._vae
    filled: list[bool] = []
    owner, method = part_of(tiny, "decode")
    work = getattr(owner, method)

    def fail_after_the_work(*args: object, **named: object) -> object:
        work(*args, **named)
        filled.append(any(tensor is not None for tensor in vae._feat_map))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(owner, method, fail_after_the_work)
    with pytest.raises(RowError):
        render(tiny)
    assert filled == [True] * 5
    assert not any(tensor is not None for tensor in vae._feat_map)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_bytes_are_told_in_units_people_read(count: int, words: str) -> None:
    assert readable_bytes(count) == words


def test_free_memory_of_a_cpu_is_the_machines() -> None:
    free, total = free_memory_bytes(torch.device("cpu"))
    told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert total == int(told["MemTotal"].split()[0]) * 1024
    assert 0 < free <= total


def test_record_lists_the_rungs_in_order() -> None:
    facts = WorkerFacts(
        device="cuda:0",
        device_name="test",
        conditions=Conditions(
            attention_backend="native", memory_rungs=("free_caches", "others_wait")
        ),
        stages_s={},
        threads=1,
        peak_memory_bytes=10,
        weights={},
    )
    assert _work(facts)["memory_rungs"] == "free_caches,others_wait"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_waiting_weights_free_the_device_and_move_no_bit_there(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(tiny_weights, "cuda:0")
    before = render(engine, STRICT).frames
    resident = torch.cuda.memory_allocated()
    run_out_of_memory(monkeypatch, engine, "decode", times=2)
    rendering = render(engine, STRICT)
    assert rendering.conditions.memory_rungs == ("free_caches", "others_wait")
    np.testing.assert_array_equal(rendering.frames, before)
    assert torch.cuda.memory_allocated() < resident
