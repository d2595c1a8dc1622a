"""Reads a variant's dimensions from config files and the heads of safetensors files.

It opens no tensor and loads no torch.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lynx_engine.capacity.architecture import (
    AdapterSize,
    Architecture,
    TextSize,
    TransformerSize,
    VaeSize,
)
from lynx_engine.folders import ModelsPlace

_HEADER_LIMIT_BYTES = 100 << 20

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Layout:
    """Dimensions known without a file.

    Attributes:
        configs: Component of the base model -> its config.
        identity: Tensors of the identity adapter, name -> shape.
    """

    configs: Mapping[str, Mapping[str, object]]
    identity: Shapes


def read_architecture(
    folder: ModelsPlace | None,
    *,
    base: str,
    adapters: str,
    face_encoder: str,
    identity_stride: int | None,
    shares_text_key_norm: bool,
    uses_reference: bool,
    branches: int,
    layout: Layout | None = None,
) -> Architecture:
    """Return a variant's dimensions, of what lies on the disk, else as published for 14B.

    A file that is missing or cannot be read leaves the published number; loading names the fault.

    Args:
        folder: Of the public layout, or None.
        base: Base model, relative to `folder`.
        adapters: Folder of the adapter files, relative to `folder`.
        face_encoder: The recogniser, relative to `folder`.
        identity_stride: Blocks from one identity layer to the next; None without identity.
        shares_text_key_norm: Whether the identity tokens are as wide as the base (Lynx full).
        uses_reference: Whether a reference adapter is part of it.
        branches: Passes of one step.
        layout: What weights that are made here will look like; files go before it.
    """
    root = folder / base if folder is not None else None
    made = layout or Layout({}, {})

    def config(component: str) -> Mapping[str, object]:
        return _config(root, component) or made.configs.get(component, {})

    transformer = _transformer(config("transformer"))
    adapter = None
    if identity_stride is not None:
        layers = _shapes(folder, adapters, "ip_layers.safetensors") or made.identity
        resampler = _shapes(folder, adapters, "resampler.safetensors")
        width = transformer.width if shares_text_key_norm else 2048
        _, tokens, inner = resampler.get("latents", (1, 16, 1280))
        adapter = AdapterSize(
            block_stride=identity_stride,
            token_width=layers.get("0.to_k_ip.weight", (0, width))[1],
            biased=shares_text_key_norm,
            tokens=tokens,
            registers=layers.get("0.registers", (1, 0, 0))[1],
            reference=uses_reference,
            resampler_width=inner,
            resampler_layers=len({n.split(".")[1] for n in resampler if n.startswith("layers.")})
            or 4,
            recogniser=_recogniser(folder, face_encoder),
        )
    return Architecture(
        transformer,
        _text(config("text_encoder")),
        _vae(config("vae")),
        adapter,
        branches,
    )


def _transformer(config: Mapping[str, object]) -> TransformerSize:
    known = TransformerSize()
    cell = config.get("patch_size", list(known.cell))
    return TransformerSize(
        blocks=_whole(config, "num_layers", known.blocks),
        heads=_whole(config, "num_attention_heads", known.heads),
        head_width=_whole(config, "attention_head_dim", known.head_width),
        ffn_width=_whole(config, "ffn_dim", known.ffn_width),
        text_width=_whole(config, "text_dim", known.text_width),
        frequency_width=_whole(config, "freq_dim", known.frequency_width),
        channels=_whole(config, "in_channels", known.channels),
        cell=(int(cell[0]), int(cell[1]), int(cell[2])) if isinstance(cell, list) else known.cell,
    )


def _text(config: Mapping[str, object]) -> TextSize:
    known = TextSize()
    heads = _whole(config, "num_heads", known.heads)
    return TextSize(
        layers=_whole(config, "num_layers", known.layers),
        width=_whole(config, "d_model", known.width),
        inner=heads * _whole(config, "d_kv", known.inner // known.heads),
        heads=heads,
        ffn_width=_whole(config, "d_ff", known.ffn_width),
        vocabulary=_whole(config, "vocab_size", known.vocabulary),
        buckets=_whole(config, "relative_attention_num_buckets", known.buckets),
    )


def _vae(config: Mapping[str, object]) -> VaeSize:
    known = VaeSize()
    multiples = config.get("dim_mult")
    halves = config.get("temperal_downsample")
    return VaeSize(
        base=_whole(config, "base_dim", known.base),
        multiples=tuple(multiples) if isinstance(multiples, list) else known.multiples,
        residuals=_whole(config, "num_res_blocks", known.residuals),
        channels=_whole(config, "z_dim", known.channels),
        halves_time=tuple(halves) if isinstance(halves, list) else known.halves_time,
    )


def _whole(config: Mapping[str, object], name: str, known: int) -> int:
    value = config.get(name)
    return value if isinstance(value, int) and value > 0 else known


def _config(root: Path | None, component: str) -> Mapping[str, object]:
    if root is None:
        return {}
    try:
        config = json.loads((root / component / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _shapes(folder: ModelsPlace | None, *parts: str) -> Shapes:
    """Return name -> shape from the head of a safetensors file, {} when it cannot be read."""
    if folder is None:
        return {}
    try:
        with (folder / "/".join(parts)).open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _HEADER_LIMIT_BYTES:
                return {}
            header = json.loads(file.read(length))
        return {
            name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error):
        return {}


def _recogniser(folder: ModelsPlace | None, face_encoder: str) -> int:
    known = AdapterSize(1, 1, biased=False).recogniser
    if folder is None or not face_encoder:
        return known
    try:
        # float32 in both of the forms it comes in; the archive around it is small.
        return (folder / face_encoder).stat().st_size // 4
    except OSError:
        return known
