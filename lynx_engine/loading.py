"""Loads the engine of a variant: its weights found or made, and checked."""

from __future__ import annotations

import torch

from lynx_engine.engine import RenderEngine
from lynx_engine.models.checkpoint import ensure_weights
from lynx_engine.rendering import EnginePlace, LoadedEngine
from lynx_engine.variants.spec import VariantSpec
from lynx_engine.weights.files import required_files
from lynx_engine.weights.lock import locked_digests


def load_engine(spec: VariantSpec, place: EnginePlace) -> LoadedEngine:
    """Load a variant of the Lynx family.

    Raises:
        RowError: WEIGHTS, if a file is missing, damaged or does not fit; OUT_OF_MEMORY.
    """
    torch.set_num_threads(place.threads)
    folder = ensure_weights(spec, models_dir=place.models_dir, cache_dir=place.cache_dir)
    engine = RenderEngine.load(
        spec,
        weights_dir=folder,
        device=place.device,
        precision=place.precision,
        attention=place.attention,
        compile_blocks=place.compile,
        cache_dir=place.cache_dir,
        # The first job says where the weights shall lie.
        placement=None,
    )
    locked = locked_digests(folder)
    files = required_files(spec, folder)
    return LoadedEngine(engine, {path: locked[path] for path in files if path in locked})
