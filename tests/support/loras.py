"""Writes small LoRAs for the tiny model, in the namings that public ones come in."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from safetensors.torch import save_file

from lynx_engine.digest import digest_file
from lynx_engine.jobs import Lora
from lynx_engine.models.lora_file import layer_shapes
from lynx_engine.models.tiny_layout import TRANSFORMER

LAYERS = layer_shapes(TRANSFORMER)
"""The tiny transformer's layers: name -> (out, in)."""

_ORIGINAL = {
    "attn1": "self_attn", "attn2": "cross_attn", "to_out.0": "o", "to_q": "q", "to_k": "k",
    "to_v": "v", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
}  # fmt: skip
BLOCK_LAYERS = {name: size for name, size in LAYERS.items() if name.startswith("blocks.")}


def original_name(layer: str) -> str:
    """Return a block layer's name in the original Wan model."""
    for ours, theirs in _ORIGINAL.items():
        layer = layer.replace(ours, theirs)
    return layer


def factors(
    layers: Collection[str], *, rank: int = 2, up: float = 1.0, seed: int = 0
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return layer -> (A [r, in], B [out, r]), normal; B times `up`."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for layer in layers:
        out, width = LAYERS[layer]
        down = torch.randn(rank, width, generator=generator) / width**0.5
        made[layer] = (down, up * torch.randn(out, rank, generator=generator) / rank**0.5)
    return made


def write_lora(
    path: Path,
    made: dict[str, tuple[torch.Tensor, torch.Tensor]],
    *,
    naming: str = "diffusers",
    alpha: float | None = None,
    dtype: torch.dtype = torch.float32,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Save a LoRA; `naming` is diffusers, original or kohya, `alpha` where the naming has one."""
    tensors: dict[str, torch.Tensor] = {}
    for layer, (down, up) in made.items():
        name = f"transformer.{layer}"
        down_name, up_name = "lora_A.weight", "lora_B.weight"
        if naming == "original":
            name = f"diffusion_model.{original_name(layer)}"
        elif naming == "kohya":
            name = "lora_unet_" + original_name(layer).replace(".", "_")
            down_name, up_name = "lora_down.weight", "lora_up.weight"
        tensors[f"{name}.{down_name}"] = down.to(dtype).contiguous()
        tensors[f"{name}.{up_name}"] = up.to(dtype).contiguous()
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata)
    return path


def lora_of(path: Path, scale: float = 1.0) -> Lora:
    """Return the LoRA as planning would, by its content."""
    return Lora(digest_file(path), scale, path)
