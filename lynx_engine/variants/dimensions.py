"""The dimensions of a variant's networks: its spec, and the files that are there, put together."""

from __future__ import annotations

from pathlib import Path

from lynx_engine.capacity.architecture import Architecture
from lynx_engine.capacity.reading import Layout, read_architecture
from lynx_engine.folders import ModelsPlace
from lynx_engine.variants.spec import VariantSpec


def architecture_of(spec: VariantSpec, weights_dir: ModelsPlace | None) -> Architecture | None:
    """Return the variant's dimensions, as published for 14B where no file says otherwise.

    Args:
        spec: The variant.
        weights_dir: Folder of the public layout, or None.

    Returns:
        None for a variant without a model.
    """
    if not spec.base:
        return None
    identity = spec.identity
    return read_architecture(
        weights_dir,
        base=spec.base,
        adapters=spec.adapters,
        face_encoder=spec.face_encoder,
        identity_stride=None if identity is None else identity.block_stride,
        shares_text_key_norm=identity is not None and identity.shares_text_key_norm,
        uses_reference=spec.uses_reference,
        branches=len(spec.branches),
        layout=_made_layout(spec) if spec.builder else None,
    )


def _made_layout(spec: VariantSpec) -> Layout:
    from lynx_engine.models.tiny_layout import JSON_FILES, tensor_shapes

    components = ("transformer", "text_encoder", "vae")
    return Layout(
        {name: JSON_FILES[f"{spec.base}/{name}/config.json"] for name in components},
        tensor_shapes(f"{spec.adapters}/ip_layers.safetensors"),
    )


def weights_folder(spec: VariantSpec, *, models_dir: ModelsPlace, cache_dir: Path) -> ModelsPlace:
    """Return where a variant's weights lie, or will lie once they are made."""
    return cache_dir / spec.recipe if spec.builder else models_dir
