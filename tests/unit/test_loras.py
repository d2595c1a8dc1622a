"""LoRAs over the transformer: what they compute, that they leave nothing, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lynx_engine.engine import RenderEngine
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.jobs import Lora, RenderJob
from lynx_engine.models.checkpoint import ensure_weights
from lynx_engine.models.loras import without_loras
from lynx_engine.variants import get_variant
from tests.support.loras import BLOCK_LAYERS, LAYERS, factors, lora_of, write_lora
from tests.support.renders import ASTRONAUT_LANDMARKS, astronaut, make_job

AT = torch.tensor([500])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    return ensure_weights(get_variant("tiny"), models_dir=cache, cache_dir=cache)


def load(weights: Path, precision: str = "float32", variant: str = "tiny") -> RenderEngine:
    return RenderEngine.load(
        get_variant(variant), weights_dir=weights, device="cpu", precision=precision
    )


@pytest.fixture(scope="module")
def engine(weights: Path) -> RenderEngine:
    return load(weights)


def frames_of(engine: RenderEngine, *loras: Lora, **changes: object) -> np.ndarray:
    job: RenderJob = replace(make_job(engine.spec.name), loras=loras, **changes)  # pyright: ignore[reportArgumentType]
    face = engine.embed_face(astronaut(), ASTRONAUT_LANDMARKS)
    return engine.render(job, face).frames


def velocity(engine: RenderEngine, *loras: Lora) -> torch.Tensor:
    latents = torch.randn((1, 16, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    text = engine.conditioning.encode_text("A person waves.")
    with engine.loras.laid_over(loras), torch.inference_mode():
        return engine.denoiser.velocity(latents, AT, text=text)


def added_to_the_weights(
    engine: RenderEngine, made: dict[str, tuple[torch.Tensor, torch.Tensor]], scale: float
) -> torch.Tensor:
    """Return the velocity of a model whose weights are W + scale B A; put them back."""
    linear = {layer: engine.denoiser.transformer.get_submodule(layer) for layer in made}
    before = {layer: module.weight.clone() for layer, module in linear.items()}  # pyright: ignore
    with torch.no_grad():
        for layer, (down, up) in made.items():
            linear[layer].weight += scale * up @ down  # pyright: ignore
    try:
        return velocity(engine)
    finally:
        with torch.no_grad():
            for layer, weight in before.items():
                linear[layer].weight.copy_(weight)  # pyright: ignore


def relative(difference: torch.Tensor, reference: torch.Tensor) -> float:
    return (difference.norm() / reference.norm()).item()


def test_zero_factors_are_no_lora_bit_for_bit(engine: RenderEngine, tmp_path: Path) -> None:
    zero = lora_of(write_lora(tmp_path / "zero.st", factors(LAYERS, up=0.0)))
    assert torch.equal(velocity(engine, zero), velocity(engine))
    np.testing.assert_array_equal(frames_of(engine, zero, zero), frames_of(engine))


@pytest.mark.parametrize("layer", ["blocks.1.attn2.to_v", "blocks.0.attn1.to_q", "proj_out"])
def test_a_lora_of_rank_one_is_the_model_with_it_added_to_the_weights(
    engine: RenderEngine, tmp_path: Path, layer: str
) -> None:
    made = factors([layer], rank=1)
    lora = lora_of(write_lora(tmp_path / "one.st", made), 0.7)
    exact = added_to_the_weights(engine, made, 0.7)
    plain = velocity(engine)
    assert relative(plain - exact, exact) > 1e-3, "it changes something"
    assert relative(velocity(engine, lora) - exact, exact) < 1e-6
    assert torch.equal(velocity(engine), plain)


@pytest.mark.parametrize(
    ("naming", "alpha"), [("diffusers", None), ("original", None), ("original", 1), ("kohya", 1)]
)
def test_every_naming_and_its_alpha_mean_the_same_change(
    engine: RenderEngine, tmp_path: Path, naming: str, alpha: float | None
) -> None:
    made = factors(BLOCK_LAYERS, rank=2, up=0.2)
    lora = lora_of(write_lora(tmp_path / "a.st", made, naming=naming, alpha=alpha))
    exact = added_to_the_weights(engine, made, 1.0 if alpha is None else alpha / 2)
    assert relative(velocity(engine, lora) - exact, exact) < 1e-5


def test_alpha_in_the_metadata_of_diffusers_counts(engine: RenderEngine, tmp_path: Path) -> None:
    made = factors(BLOCK_LAYERS, rank=2, up=0.2)
    noted = json.dumps({"transformer.r": 2, "transformer.lora_alpha": 1})
    path = write_lora(tmp_path / "a.st", made, metadata={"lora_adapter_metadata": noted})
    exact = added_to_the_weights(engine, made, 0.5)
    assert relative(velocity(engine, lora_of(path)) - exact, exact) < 1e-5


def test_several_loras_add_up_each_at_its_scale(engine: RenderEngine, tmp_path: Path) -> None:
    made = [factors(BLOCK_LAYERS, rank=rank, up=0.2, seed=rank) for rank in (1, 3)]
    loras = [
        lora_of(write_lora(tmp_path / f"{n}.st", one), scale)
        for n, (one, scale) in enumerate(zip(made, (0.5, -0.25), strict=True))
    ]
    summed = {
        layer: (
            torch.cat([one[layer][0] for one in made]),
            torch.cat([0.5 * made[0][layer][1], -0.25 * made[1][layer][1]], dim=1),
        )
        for layer in BLOCK_LAYERS
    }
    exact = added_to_the_weights(engine, summed, 1.0)
    assert relative(velocity(engine, *loras) - exact, exact) < 1e-5


def test_biases_and_left_out_norms_of_public_distilled_loras_load(
    engine: RenderEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layers = ["blocks.0.attn1.to_q", "blocks.0.attn1.to_k"]
    path = write_lora(tmp_path / "a.st", factors(layers), naming="original")
    bias = torch.randn(96, generator=torch.Generator().manual_seed(1))
    extra = {
        "diffusion_model.blocks.0.self_attn.q.diff_b": bias,
        "diffusion_model.blocks.0.self_attn.norm_k.diff": torch.ones(96),
    }
    save_file({**load_file(path), **extra}, path)
    to_q = engine.denoiser.transformer.get_submodule("blocks.0.attn1.to_q")
    assert isinstance(to_q, torch.nn.Linear)
    with torch.no_grad():
        to_q.bias.add_(bias)
    try:
        exact = added_to_the_weights(engine, factors(layers), 1.0)
    finally:
        with torch.no_grad():
            to_q.bias.sub_(bias)
    assert relative(velocity(engine, lora_of(path)) - exact, exact) < 1e-5
    assert "1 tensors are left out, as diffusers' loader leaves them" in caplog.text
    assert "norm_k.diff" in caplog.text


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_after_a_lora_are_those_before_it(
    weights: Path, tmp_path: Path, precision: str, stored: torch.dtype
) -> None:
    engine = load(weights, precision)
    model = engine.denoiser.transformer
    lora = lora_of(write_lora(tmp_path / "a.st", factors(LAYERS, up=0.3), dtype=stored), 0.8)
    job = {"precision": precision, "numerics": "strict"}
    kept = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    modules, traces = [id(m) for m in model.modules()], set(vars(model))
    before = frames_of(engine, **job)
    changed = frames_of(engine, lora, **job)
    assert np.abs(changed.astype(float) - before).mean() > 1
    np.testing.assert_array_equal(frames_of(engine, **job), before)
    np.testing.assert_array_equal(frames_of(engine, lora, **job), changed)
    assert [id(m) for m in model.modules()] == modules
    assert set(vars(model)) == traces
    for name, parameter in model.named_parameters():
        assert id(parameter) == kept[name][0]
        assert torch.equal(parameter, kept[name][1])
        assert not parameter.requires_grad


def test_reference_features_are_the_base_models_whatever_is_laid_over_it(
    engine: RenderEngine, tmp_path: Path
) -> None:
    lora = lora_of(write_lora(tmp_path / "a.st", factors(LAYERS)))
    face = engine.embed_face(astronaut(), ASTRONAUT_LANDMARKS)
    plain = engine.conditioning.reference_features(face, seed=9)
    engine.conditioning.free_caches()
    base = velocity(engine)
    with engine.loras.laid_over([lora]):
        laid = engine.conditioning.reference_features(face, seed=9)
        assert not torch.equal(velocity(engine), base)
        with without_loras(engine.denoiser.transformer):
            assert torch.equal(velocity(engine), base)
    assert all(torch.equal(a, b) for a, b in zip(plain, laid, strict=True))


def test_a_failed_row_takes_its_lora_with_it(
    engine: RenderEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = lora_of(write_lora(tmp_path / "a.st", factors(LAYERS)))
    before = frames_of(engine)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "sample", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            frames_of(engine, lora)
    np.testing.assert_array_equal(frames_of(engine), before)


def letter(engine: RenderEngine, *loras: Lora) -> str:
    before = velocity(engine)
    with pytest.raises(RowError) as caught:
        velocity(engine, *loras)
    assert caught.value.code is ErrorCode.LORA
    assert torch.equal(velocity(engine), before)
    return str(caught.value)


def test_a_file_that_changed_since_planning_fails_its_row_by_name(
    engine: RenderEngine, tmp_path: Path
) -> None:
    # A content that no other test has laid over this engine: one it knows needs no file.
    path = write_lora(tmp_path / "a.st", factors(LAYERS, seed=77))
    planned = lora_of(path)
    write_lora(path, factors(LAYERS, seed=5))
    told = f"LoRA {path} changed after the campaign was planned. Run the command again."
    assert letter(engine, planned) == told
    path.unlink()
    assert letter(engine, planned).startswith(f"LoRA {path} does not exist.")


def test_a_second_lora_that_does_not_fit_takes_the_first_with_it(
    engine: RenderEngine, tmp_path: Path
) -> None:
    good = lora_of(write_lora(tmp_path / "good.st", factors(LAYERS)))
    bad = tmp_path / "bad.st"
    down, up = factors(["proj_out"])["proj_out"]
    save_file(
        {"transformer.proj_out.lora_A.weight": down[:, :5].contiguous(),
         "transformer.proj_out.lora_B.weight": up}, bad,
    )  # fmt: skip
    assert letter(engine, good, lora_of(bad)).startswith(f"LoRA {bad} could not be laid over (")
    lacking = tmp_path / "lacking.st"
    save_file({"transformer.proj_out.lora_B.weight": up}, lacking)
    assert f"LoRA {lacking} " in letter(engine, good, lora_of(lacking))
    alien = tmp_path / "alien.st"
    save_file({"transformer.nowhere.lora_A.weight": down,
               "transformer.nowhere.lora_B.weight": up}, alien)  # fmt: skip
    assert f"LoRA {alien} " in letter(engine, lora_of(alien))


@pytest.mark.parametrize("variant", ["tiny", "tiny_lite"])
def test_a_distilled_row_runs_one_branch(weights: Path, tmp_path: Path, variant: str) -> None:
    engine = load(weights, variant=variant)
    path = write_lora(tmp_path / "a.st", factors(LAYERS, up=0.0))
    passes: list[object] = []
    forward = engine.denoiser.velocity
    engine.denoiser.velocity = lambda *args, **kwargs: (  # pyright: ignore[reportAttributeAccessIssue]
        passes.append(args[1]) or forward(*args, **kwargs)
    )
    guided = {"guidance_text": 1.0, "guidance_identity": 1.0, "negative_prompt": ""}
    alone = frames_of(engine, lora_of(path), speed="distilled", **guided)
    assert len(passes) == make_job(variant).steps
    assert engine.counters.kv_sets == 1
    # By the formulas: with every scale at 1 the other branches cancel, to rounding.
    three = frames_of(engine, **guided)
    assert np.abs(three.astype(float) - alone).max() <= 1
