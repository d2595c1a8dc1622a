"""The engine against runs of the released program, number by number.

The oracle is a saved run of the released code; the cases and their story are told in
tests/golden/parity/README.md. Everything compared comes out of the engine's own production code.
`LYNX_PARITY_DIR=<folder>` checks the cases of another folder instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lynx_engine.capacity.placement import RESIDENT
from lynx_engine.diffusion.latents import draw_noise, latent_shape
from lynx_engine.diffusion.schedule import start_schedule
from lynx_engine.engine import RenderEngine
from lynx_engine.identity.align import identity_crop, reference_crop
from lynx_engine.models.attention import NO_ADAPTERS
from lynx_engine.models.tiers import placement_of_tier
from lynx_engine.variants import get_variant
from tests.parity.cases import Case, case_folders, face_tensors, faults, parity_folder, read_case
from tests.support.weights import list_pickle

TENSOR = 1e-5
LATENT = 5e-5
EMBEDDING = 1e-5
GREY_LEVEL = 1
COMPILED_DB = 45

FOLDER = parity_folder()
# A folder without cases must fail and not be an empty list, which pytest would skip.
FOLDERS = case_folders(FOLDER) or [FOLDER / "no-case-found"]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedCase:
    """A case with its two engines, which share one weights folder."""

    case: Case
    full: RenderEngine
    lite: RenderEngine
    load: Callable[..., RenderEngine]


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda path: path.name)
def case_folder(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def loaded(case_folder: Path) -> Iterator[LoadedCase]:
    case = read_case(case_folder)
    # Removed at once: the recogniser's file alone is 174 MB, and pytest keeps its own folders.
    with TemporaryDirectory() as temporary:
        weights = Path(temporary)
        for part in ("base", "lynx_full", "lynx_lite"):
            (weights / part).symlink_to(case.folder.resolve() / part, target_is_directory=True)
        (weights / "arcface").mkdir()
        face_path = weights / get_variant("lynx_full").face_encoder
        torch.save(face_tensors(case.folder), face_path)
        list_pickle(face_path, weights)

        def load(name: str, **options: Any) -> RenderEngine:
            return RenderEngine.load(
                replace(get_variant(name), base="base"),
                weights_dir=weights,
                device="cpu",
                precision=case.text("dtype"),
                **options,
            )

        yield LoadedCase(case, load("lynx_full"), load("lynx_lite"), load)


def assert_close(found: object, expected: npt.NDArray[np.generic], tolerance: float) -> None:
    values = np.asarray(found, dtype=np.float64)
    assert values.shape == expected.shape
    assert np.abs(values - expected.astype(np.float64)).max() <= tolerance


def test_folder_is_a_complete_case(case_folder: Path) -> None:
    assert case_folder.is_dir(), f"{FOLDER} holds no case"
    assert faults(case_folder) == []


def test_crops_are_the_released_ones(case_folder: Path) -> None:
    case = read_case(case_folder)
    landmarks = case.expected["face.landmarks"]
    cut = identity_crop(case.photo, landmarks)
    assert_close(cut, case.expected["face.identity_crop"], GREY_LEVEL)
    wide = reference_crop(case.photo, landmarks)
    assert_close(wide, case.expected["face.reference_crop"], GREY_LEVEL)


def test_noise_and_schedule_are_the_released_ones(case_folder: Path) -> None:
    case = read_case(case_folder)
    job = case.job("lynx_full")
    noise = draw_noise(latent_shape(job.frames, job.size, frame_stride=4), seed=job.seed)
    assert_close(noise, case.expected["noise"], TENSOR)
    config = case_folder / "base" / "scheduler" / "scheduler_config.json"
    schedule = start_schedule(json.loads(config.read_text(encoding="utf-8")), steps=job.steps)
    assert_close(schedule.timesteps, case.expected["timesteps"], TENSOR)
    assert_close(schedule.sigmas, case.expected["sigmas"], TENSOR)


def test_identity_embedding_is_the_released_one(loaded: LoadedCase) -> None:
    landmarks = loaded.case.expected["face.landmarks"]
    crop = loaded.case.expected["face.identity_crop"].astype(np.uint8)
    assert loaded.full.conditioning._subject is not None
    embedding = loaded.full.conditioning._subject.face_encoder.embed(crop)
    assert_close(embedding, loaded.case.expected["face.arcface_embedding"], EMBEDDING)
    # From the photo itself the crop may be a grey level off, and the embedding follows it.
    face = loaded.full.embed_face(loaded.case.photo, landmarks)
    assert_close(face.embedding, loaded.case.expected["face.arcface_embedding"], 1e-4)


def test_text_tokens_are_the_released_ones(loaded: LoadedCase) -> None:
    case = loaded.case
    for key, text in (("prompt_embeds", "prompt"), ("negative_prompt_embeds", "negative_prompt")):
        assert_close(
            loaded.full.conditioning.encode_text(case.text(text)), case.expected[key], TENSOR
        )


def test_identity_tokens_are_the_released_ones(loaded: LoadedCase) -> None:
    expected, face = loaded.case.expected, loaded.case.face()
    assert_close(
        loaded.full.conditioning.identity_tokens(face), expected["full.identity_tokens"], TENSOR
    )
    assert_close(
        loaded.full.conditioning.identity_tokens(None),
        expected["full.identity_tokens_zero"],
        TENSOR,
    )
    assert_close(
        loaded.lite.conditioning.identity_tokens(face), expected["lite.identity_tokens"], TENSOR
    )


def test_reference_features_are_the_released_ones(loaded: LoadedCase) -> None:
    case, seed = loaded.case, loaded.case.seed
    for key, face in (("reference_features", case.face()), ("reference_features_zero", None)):
        features = loaded.full.conditioning.reference_features(face, seed=seed)
        assert len(features) == sum(name.startswith(f"full.{key}.") for name in case.expected)
        for block, feature in enumerate(features):
            assert_close(feature, case.expected[f"full.{key}.{block}"], TENSOR)


def test_velocity_at_500_is_the_released_one(loaded: LoadedCase) -> None:
    case = loaded.case
    noise = torch.from_numpy(case.expected["noise"])
    text = torch.from_numpy(case.expected["prompt_embeds"])
    face = case.face()
    full = loaded.full.conditioning.adapters(case.job("lynx_full"), face)
    lite = loaded.lite.conditioning.adapters(case.job("lynx_lite"), face)
    for key, engine, adapters in (
        ("base", loaded.full, NO_ADAPTERS),
        ("full", loaded.full, full),
        ("lite", loaded.lite, lite),
    ):
        with torch.inference_mode():
            velocity = engine.denoiser.velocity(
                noise, torch.tensor([500]), text=text, adapters=adapters
            )
        assert_close(velocity, case.expected[f"{key}.velocity_t500"], TENSOR)


def test_latents_after_all_steps_are_the_released_ones(loaded: LoadedCase) -> None:
    case = loaded.case
    for key, engine in (("full", loaded.full), ("lite", loaded.lite)):
        job = case.job(engine.spec.name)
        latents = engine.sample(job, engine.branches(job, case.face()))
        assert_close(latents, case.expected[f"{key}.latents"], LATENT)


@pytest.mark.parametrize("keeps_text_kv", [True, False])
@pytest.mark.parametrize("shares_first_block", [True, False])
def test_what_is_kept_and_shared_changes_no_bit_of_the_latents(
    loaded: LoadedCase, keeps_text_kv: bool, shares_first_block: bool
) -> None:
    case = loaded.case
    for key, engine in (("full", loaded.full), ("lite", loaded.lite)):
        job = case.job(engine.spec.name)
        resident = engine.denoiser.placement
        kept = engine.sample(job, engine.branches(job, case.face()))
        engine.denoiser.placement = replace(
            resident, keeps_text_kv=keeps_text_kv, shares_first_block=shares_first_block
        )
        latents = engine.sample(job, engine.branches(job, case.face()))
        engine.denoiser.placement = resident
        assert torch.equal(latents, kept)
        assert_close(latents, case.expected[f"{key}.latents"], LATENT)


# torch's own compiler imports a part of torch that torch itself calls deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("variant", ["lynx_full", "lynx_lite"])
def test_compiled_latents_are_the_released_ones_to_45_db(loaded: LoadedCase, variant: str) -> None:
    case = loaded.case
    engine = loaded.load(variant, compile_blocks="on")
    job = case.job(variant)
    latents = engine.sample(job, engine.branches(job, case.face()))
    assert engine.denoiser.compiles_for("normal")
    expected = case.expected[f"{variant.removeprefix('lynx_')}.latents"].astype(np.float64)
    error = np.sqrt(np.square(np.asarray(latents, np.float64) - expected).mean())
    assert 20 * np.log10((expected.max() - expected.min()) / error) >= COMPILED_DB


@pytest.mark.parametrize("tier", ["balanced", "low"])
def test_latents_are_the_released_ones_in_every_tier(loaded: LoadedCase, tier: str) -> None:
    case = loaded.case
    for key, engine in (("full", loaded.full), ("lite", loaded.lite)):
        job = case.job(engine.spec.name)
        engine.place(placement_of_tier(tier, blocks=engine.denoiser.blocks))
        try:
            latents = engine.sample(job, engine.branches(job, case.face()))
        finally:
            engine.place(RESIDENT)
        assert_close(latents, case.expected[f"{key}.latents"], LATENT)


def test_frames_are_the_released_ones(loaded: LoadedCase) -> None:
    rendering = loaded.full.render(loaded.case.job("lynx_full"), loaded.case.face())
    assert rendering.frames.dtype == np.uint8
    assert_close(rendering.frames, loaded.case.expected["full.frames"], GREY_LEVEL)
