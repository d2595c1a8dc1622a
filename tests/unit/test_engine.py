"""The engine as a whole: same numbers again, no work twice, and what it refuses."""

from __future__ import annotations

import gc
import hashlib
import pickle
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lynx_engine.engine import RenderEngine, WorkCounters, guidance_of
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.identity.embed import SubjectFace
from lynx_engine.jobs import RenderJob
from lynx_engine.models.checkpoint import ensure_weights
from lynx_engine.models.device import memory_errors, reproducible
from lynx_engine.models.vae import check_content
from lynx_engine.shapes import FrameSize
from lynx_engine.variants import get_variant
from tests.support.renders import (
    ASTRONAUT_LANDMARKS,
    astronaut,
    make_job,
    make_small_job,
)
from tests.support.weights import write_public_layout

OTHER_PROCESS = """
import hashlib, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.support.renders import ASTRONAUT_LANDMARKS, astronaut, make_job
from lynx_engine.engine import RenderEngine
from lynx_engine.variants import get_variant
engine = RenderEngine.load(
    get_variant("tiny"), weights_dir=Path(sys.argv[1]), device="cpu", precision="float32"
)
face = engine.embed_face(astronaut(), ASTRONAUT_LANDMARKS)
print(hashlib.sha256(engine.render(make_job("tiny"), face).frames.tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    return ensure_weights(get_variant("tiny"), models_dir=cache, cache_dir=cache)


@pytest.fixture(scope="module")
def public_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    write_public_layout(models)
    return models


def load(weights: Path, variant: str, precision: str = "float32") -> RenderEngine:
    return RenderEngine.load(
        get_variant(variant), weights_dir=weights, device="cpu", precision=precision
    )


@pytest.fixture
def tiny(tiny_weights: Path) -> RenderEngine:
    return load(tiny_weights, "tiny")


def face_of(engine: RenderEngine) -> SubjectFace:
    return engine.embed_face(astronaut(), ASTRONAUT_LANDMARKS)


def frames_of(engine: RenderEngine, job: RenderJob) -> np.ndarray:
    face = face_of(engine) if engine.spec.uses_subject else None
    return engine.render(job, face).frames.astype(np.float64)


@pytest.mark.parametrize("variant", ["tiny", "tiny_lite"])
def test_tiny_pictures_have_contrast_structure_and_motion(tiny_weights: Path, variant: str) -> None:
    frames = frames_of(load(tiny_weights, variant), make_job(variant))
    assert frames.shape == (9, 64, 64, 3)
    assert all(frame.std() > 20 for frame in frames)
    assert ((frames == 0) | (frames == 255)).mean() < 0.2
    # Neighbouring pixels resemble each other, which those of noise do not (1.13 there).
    assert np.abs(np.diff(frames, axis=2)).mean() / frames.std() < 0.8
    assert np.abs(np.diff(frames, axis=0)).mean() > 5


def test_prompt_seed_subject_and_scales_each_change_the_picture(tiny: RenderEngine) -> None:
    job = make_job("tiny")
    base = frames_of(tiny, job)
    mirrored = np.ascontiguousarray(astronaut()[:, ::-1])
    landmarks = (ASTRONAUT_LANDMARKS * np.array((-1, 1)) + np.array((511, 0)))[[1, 0, 2, 4, 3]]
    other = tiny.render(job, tiny.embed_face(mirrored, landmarks)).frames
    changed = {
        "subject": other.astype(np.float64),
        "prompt": frames_of(tiny, replace(job, prompt="A robot waves.")),
        "chinese": frames_of(tiny, replace(job, prompt="一个人在海滩上跑步")),
        "negative": frames_of(tiny, replace(job, negative_prompt="")),
        "seed": frames_of(tiny, replace(job, seed=43)),
        "text guidance": frames_of(tiny, replace(job, guidance_text=3.0)),
        "identity guidance": frames_of(tiny, replace(job, guidance_identity=1.0)),
        "identity scale": frames_of(tiny, replace(job, scale_identity=0.5)),
        "reference scale": frames_of(tiny, replace(job, scale_reference=0.5)),
    }
    too_alike = {name for name, frames in changed.items() if np.abs(frames - base).mean() < 1}
    assert too_alike == set()


def test_tiny_and_tiny_lite_differ(tiny: RenderEngine, tiny_weights: Path) -> None:
    lite = frames_of(load(tiny_weights, "tiny_lite"), make_job("tiny_lite"))
    assert np.abs(frames_of(tiny, make_job("tiny")) - lite).mean() > 5


def test_same_job_gives_the_same_bits_in_another_process(
    tiny: RenderEngine, tiny_weights: Path
) -> None:
    frames = tiny.render(make_job("tiny"), face_of(tiny)).frames
    told = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(tiny_weights)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == hashlib.sha256(frames.tobytes()).hexdigest()


def test_strict_numerics_give_the_same_bits_on_a_cpu_and_leave_torch_as_it_was(
    tiny: RenderEngine,
) -> None:
    normal = frames_of(tiny, make_job("tiny"))
    strict = frames_of(tiny, replace(make_job("tiny"), numerics="strict"))
    np.testing.assert_array_equal(strict, normal)
    assert not torch.are_deterministic_algorithms_enabled()
    with reproducible("strict"):
        assert torch.are_deterministic_algorithms_enabled()


def test_two_engines_in_a_process_do_not_meet(tiny: RenderEngine, tiny_weights: Path) -> None:
    alone = frames_of(tiny, make_job("tiny"))
    lite = load(tiny_weights, "tiny_lite")
    counted = replace(tiny.counters)
    frames_of(lite, make_job("tiny_lite"))
    assert tiny.counters == counted
    np.testing.assert_array_equal(frames_of(tiny, make_job("tiny")), alone)


def test_warm_caches_do_not_change_a_bit(tiny: RenderEngine, tiny_weights: Path) -> None:
    frames_of(tiny, replace(make_job("tiny"), prompt="Something else.", seed=7))
    fresh = frames_of(load(tiny_weights, "tiny"), make_job("tiny"))
    np.testing.assert_array_equal(frames_of(tiny, make_job("tiny")), fresh)


def test_no_work_is_done_twice(tiny: RenderEngine) -> None:
    jobs = [
        replace(make_job("tiny"), prompt=prompt, seed=seed)
        for prompt in ("A person waves.", "A person sings.")
        for seed in (1, 2, 3)
    ]
    for job in jobs:
        frames_of(tiny, job)
    assert tiny.counters == WorkCounters(
        model_loads=1,
        text_encodes=2 + 1 + 1,  # prompts, negative prompt, reference prompt
        face_runs=1,
        reference_passes=3 + 3,  # each seed with the subject, and without
        kv_sets=2 * len(jobs),
        vae_decodes=len(jobs),
    )


def test_lite_makes_no_reference_pass(tiny_weights: Path) -> None:
    lite = load(tiny_weights, "tiny_lite")
    frames_of(lite, make_job("tiny_lite"))
    assert lite.counters == WorkCounters(
        model_loads=1, text_encodes=2, face_runs=1, kv_sets=2, vae_decodes=1
    )


@pytest.mark.parametrize("variant", ["tiny", "tiny_lite"])
def test_scale_zero_is_the_base_model_bit_for_bit(tiny_weights: Path, variant: str) -> None:
    engine = load(tiny_weights, variant)
    job = replace(make_job(variant), scale_identity=0.0, scale_reference=0.0)
    wan = replace(get_variant("wan"), base="base")
    base = RenderEngine.load(wan, weights_dir=tiny_weights, device="cpu", precision="float32")
    latents = torch.randn((1, 16, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    at = torch.tensor([500])
    text = engine.conditioning.encode_text(job.prompt)
    with torch.inference_mode():
        stock = base.denoiser.velocity(latents, at, text=text)
        ours = engine.denoiser.velocity(
            latents, at, text=text, adapters=engine.conditioning.adapters(job, face_of(engine))
        )
    assert torch.equal(ours, stock)


def test_reference_scale_zero_makes_no_reference_pass_and_leaves_the_identity(
    tiny: RenderEngine,
) -> None:
    adapters = tiny.conditioning.adapters(
        replace(make_job("tiny"), scale_reference=0.0), face_of(tiny)
    )
    assert tiny.counters.reference_passes == 0
    assert (set(adapters.identity), set(adapters.reference)) == ({0, 1, 2, 3}, set())


def test_identity_scale_zero_leaves_the_reference(tiny: RenderEngine) -> None:
    adapters = tiny.conditioning.adapters(
        replace(make_job("tiny"), scale_identity=0.0), face_of(tiny)
    )
    assert (set(adapters.identity), set(adapters.reference)) == (set(), {0, 1, 2, 3})


def test_lite_adapts_every_second_block(tiny_weights: Path) -> None:
    engine = load(tiny_weights, "tiny_lite")
    adapters = engine.conditioning.adapters(make_job("tiny_lite"), face_of(engine))
    assert (set(adapters.identity), set(adapters.reference)) == ({0, 2}, set())


@pytest.mark.parametrize("variant", ["tiny", "tiny_lite"])
def test_other_jobs_in_between_leave_no_trace(tiny_weights: Path, variant: str) -> None:
    engine = load(tiny_weights, variant)
    job = replace(make_job(variant), numerics="strict")
    first = frames_of(engine, job)
    frames_of(engine, replace(job, size=FrameSize(96, 48), frames=5, steps=1, seed=1))
    frames_of(engine, replace(job, scale_identity=0.0, scale_reference=0.0))
    frames_of(engine, replace(job, numerics="normal", negative_prompt="", guidance_text=1.0))
    np.testing.assert_array_equal(frames_of(engine, job), first)


def test_failed_job_leaves_no_trace(tiny: RenderEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job("tiny")
    first = frames_of(tiny, job)
    last_block: Any = tiny.denoiser.transformer.blocks[-1]
    with monkeypatch.context() as patched:
        patched.setattr(last_block.ffn, "forward", lambda _: torch.ones(1, 2, 3) @ torch.ones(1))
        with pytest.raises(RuntimeError, match="size"):
            frames_of(tiny, replace(job, seed=5))
    np.testing.assert_array_equal(frames_of(tiny, job), first)


def test_engine_is_freed_with_its_last_name(tiny_weights: Path) -> None:
    # Two 14B models do not fit a device: no cycle may keep the old one until the next collection.
    engine = load(tiny_weights, "tiny")
    frames_of(engine, make_job("tiny"))
    parts = [weakref.ref(engine), weakref.ref(engine.denoiser.transformer)]
    gc.disable()
    try:
        del engine
        assert [part() for part in parts] == [None, None]
    finally:
        gc.enable()


def test_progress_is_told_by_stage(tiny: RenderEngine) -> None:
    told: list[tuple[str, int, int]] = []
    job = make_job("tiny")
    rendering = tiny.render(
        job, face_of(tiny), on_stage=lambda stage, done, total: told.append((stage, done, total))
    )
    assert [stage for stage, done, _ in told if done == 0] == [
        "text",
        "subject",
        "denoise",
        "decode",
    ]
    assert [done for stage, done, _ in told if stage == "denoise"] == [0, 1, 2, 3, 4]
    assert list(rendering.stages_s) == ["text", "subject", "denoise", "decode"]
    assert rendering.peak_memory_bytes > 1 << 20
    assert rendering.conditions.attention_backend == "torch SDPA (native)"
    assert rendering.conditions.attention_reason == "a CPU runs no other"
    assert not rendering.conditions.compiled
    assert rendering.conditions.memory_tier == "resident"
    assert rendering.conditions.memory_rungs == ()


# torch's own compiler imports a part of torch that torch itself calls deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
def test_record_tells_what_was_compiled_and_why_a_backend_was_taken(tiny_weights: Path) -> None:
    engine = RenderEngine.load(
        get_variant("tiny"),
        weights_dir=tiny_weights,
        device="cpu",
        precision="float32",
        attention="native",
        compile_blocks="on",
    )
    face = face_of(engine)
    normal = engine.render(make_job("tiny"), face)
    assert normal.conditions.compiled
    assert normal.conditions.attention_reason == "asked for by the setting"
    strict = engine.render(replace(make_job("tiny"), numerics="strict"), face)
    assert not strict.conditions.compiled
    assert "strict" in strict.conditions.attention_reason
    difference = normal.frames.astype(np.float64) - strict.frames
    assert 10 * np.log10(255**2 / np.square(difference).mean().clip(1e-9)) >= 45
    # Still none: the engine is freed with its last name, its compiled graphs included.
    denoiser = weakref.ref(engine.denoiser)
    del engine
    assert denoiser() is None


def test_backend_that_cannot_run_here_is_refused_before_a_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(RowError, match="cuDNN attention") as refused:
        RenderEngine.load(
            get_variant("tiny"),
            weights_dir=tmp_path / "nowhere",
            device="cpu",
            precision="float32",
            attention="cudnn",
        )
    assert refused.value.code is ErrorCode.WEIGHTS


@pytest.mark.parametrize("variant", ["wan", "lynx_full", "lynx_lite"])
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_big_variants_render_from_the_public_layout(
    public_models: Path, variant: str, precision: str
) -> None:
    engine = load(public_models, variant, precision)
    frames = frames_of(engine, replace(make_small_job(variant), precision=precision))
    assert frames.shape == (5, 48, 64, 3)
    dtypes = {name: p.dtype for name, p in engine.denoiser.transformer.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.weight"] is getattr(torch, precision)
    assert engine.counters.text_encodes == (3 if variant == "lynx_full" else 2)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_what_diffusers_keeps_exact_comes_off_the_disk_unrounded(
    public_models: Path, precision: str
) -> None:
    folder = public_models / get_variant("lynx_full").base / "transformer"
    stored: dict[str, torch.Tensor] = {}
    for shard in folder.glob("*.safetensors"):
        stored |= load_file(shard)
    engine = load(public_models, "lynx_full", precision)
    loaded = dict(engine.denoiser.transformer.named_parameters())
    assert loaded.keys() == stored.keys()
    exact = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")
    for name, tensor in loaded.items():
        kept = any(part in name for part in exact)
        assert tensor.dtype is (torch.float32 if kept else getattr(torch, precision))
        assert torch.equal(tensor, stored[name].to(tensor.dtype))


def test_bfloat16_is_for_tokens_and_adapters_and_never_for_faces_and_pixels(
    public_models: Path,
) -> None:
    exact, rounded = (load(public_models, "lynx_full", p) for p in ("float32", "bfloat16"))
    job = make_small_job("lynx_full")
    adapters = rounded.conditioning.adapters(job, face_of(rounded))
    tensors = [
        rounded.conditioning.encode_text(job.prompt),
        rounded.conditioning.identity_tokens(None),
    ]
    tensors += [kv.key for kv in (*adapters.identity.values(), *adapters.reference.values())]
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    np.testing.assert_array_equal(face_of(rounded).embedding, face_of(exact).embedding)
    latents = torch.randn((1, 16, 2, 6, 8), generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(rounded.decode(latents), exact.decode(latents))


def test_bfloat16_stays_near_float32(public_models: Path) -> None:
    exact, rounded = (
        frames_of(
            load(public_models, "lynx_full", precision),
            replace(make_small_job("lynx_full"), precision=precision),
        )
        for precision in ("float32", "bfloat16")
    )
    assert np.abs(exact - rounded).mean() < 0.1 * exact.std()


def test_face_travels_between_processes(tiny: RenderEngine) -> None:
    face = face_of(tiny)
    there = pickle.loads(pickle.dumps(face))
    assert there.digest == face.digest
    np.testing.assert_array_equal(there.reference_crop, face.reference_crop)


def test_face_whose_arrays_are_read_only_renders_without_a_warning(tiny: RenderEngine) -> None:
    # Unpickled out of band, as between processes, arrays lie in memory nobody may write.
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(face_of(tiny), protocol=5, buffer_callback=buffers.append)
    face: SubjectFace = pickle.loads(data, buffers=[bytes(b.raw()) for b in buffers])
    assert not face.embedding.flags.writeable
    assert not face.reference_crop.flags.writeable
    tiny.conditioning.adapters(make_job("tiny"), face)  # a warning is an error here


def test_job_of_another_variant_or_without_its_subject_is_our_mistake(tiny: RenderEngine) -> None:
    with pytest.raises(ValueError, match="tiny"):
        tiny.render(make_job("tiny_lite"), face_of(tiny))
    with pytest.raises(ValueError, match="subject"):
        tiny.render(make_job("tiny"), None)


def test_nan_is_refused_with_advice(tiny: RenderEngine) -> None:
    latents = torch.full((1, 16, 1, 8, 8), float("nan"))
    with pytest.raises(RowError, match=r"not finite.*`precision: float32`") as caught:
        tiny.decode(latents)
    assert caught.value.code is ErrorCode.BAD_FRAMES


def test_a_broken_clip_does_not_choose_how_those_after_it_are_decoded(tiny: RenderEngine) -> None:
    broken = torch.full((1, 16, 1, 8, 8), float("nan"))
    assert tiny.choose_decode_precision(broken) == "float32"
    whole = torch.randn(broken.shape, generator=torch.Generator().manual_seed(0))
    assert tiny.choose_decode_precision(whole) == tiny._vae.fastest_precision(whole) != "float32"


def test_flat_pictures_are_refused_and_one_with_content_is_enough() -> None:
    flat = np.full((3, 16, 16, 3), 128, np.uint8)
    flat[1] = 7
    with pytest.raises(RowError, match="one flat colour") as caught:
        check_content(flat)
    assert caught.value.code is ErrorCode.BAD_FRAMES
    flat[2, :8] = 90
    check_content(flat)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_is_one_error(error: Exception) -> None:
    with (
        pytest.raises(RowError, match=r"81 frames .* fewer frames") as caught,
        memory_errors("81 frames of 832x480 did not fit"),
    ):
        raise error
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY


def test_other_runtime_errors_pass_through() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_errors("it did not fit"):
        raise RuntimeError("shapes do not match")


@pytest.fixture(autouse=True)
def _torch_generator_is_left_alone() -> Iterator[None]:
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(torch.random.get_rng_state(), before)


def test_guidance_follows_the_branches_of_the_spec() -> None:
    full, lite = make_job("lynx_full"), make_job("lynx_lite")
    ones = [torch.tensor([float(n)]) for n in (1, 3, 4)]
    assert guidance_of(full, get_variant("lynx_full")).combine(ones).item() == 10
    assert guidance_of(lite, get_variant("lynx_lite")).combine([ones[0], ones[2]]).item() == 16


def test_strict_clip_takes_nothing_that_a_normal_one_made(tiny: RenderEngine) -> None:
    job, face = make_job("tiny"), face_of(tiny)
    tiny.render(job, face)
    made = replace(tiny.counters)
    tiny.render(replace(job, numerics="strict"), face)
    assert tiny.counters.text_encodes == made.text_encodes + 3
    assert tiny.counters.reference_passes == made.reference_passes + 2
    strict = replace(tiny.counters)
    tiny.render(replace(job, numerics="strict", steps=2), face)
    assert tiny.counters.text_encodes == strict.text_encodes
    assert tiny.counters.reference_passes == strict.reference_passes
