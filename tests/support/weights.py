"""Writes scaled-down weights in the exact public layout of the big variants.

The base is saved by diffusers and transformers themselves, in shards, float32 on disk; adapters
and recogniser carry the released tensor names. Nothing here is shared with the tiny variants'
recipe, so both test the loader independently.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lynx_engine.digest import digest_file
from lynx_engine.weights.lock import OF_FILE_FOUND, LockedFile, add_to_lock

SHARD_BYTES = "200KB"


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of the model to write."""

    blocks: int = 3
    heads: int = 2
    head_width: int = 48
    text_width: int = 64
    registers: int = 4
    lite_width: int = 80

    @property
    def width(self) -> int:
        return self.heads * self.head_width


def write_public_layout(
    models_dir: Path, scale: Scale | None = None, *, seed: int = 0
) -> tuple[str, ...]:
    """Write base, both adapters and recogniser; return the top-level names.

    Args:
        models_dir: Created if need be.
        scale: Sizes; all others follow.
        seed: Of torch's generator, which is put back afterwards.
    """
    scale = scale or Scale()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _write_base(models_dir / "Wan2.1-T2V-14B-Diffusers", scale)
        full, lite = models_dir / "lynx_full", models_dir / "lynx_lite"
        full.mkdir(parents=True)
        lite.mkdir(parents=True)
        save_file(_resampler(scale.width), full / "resampler.safetensors")
        save_file(_resampler(scale.lite_width), lite / "resampler.safetensors")
        blocks = range(scale.blocks)
        ip_layers = _projections("ip", blocks, scale.width, scale.width, bias=True)
        if scale.registers:
            ip_layers |= {
                f"{n}.registers": torch.randn(1, scale.registers, scale.width) for n in blocks
            }
        save_file(ip_layers, full / "ip_layers.safetensors")
        save_file(
            _projections("ref", blocks, scale.width, scale.width, bias=True),
            full / "ref_layers.safetensors",
        )
        save_file(
            _projections("ip", blocks[::2], scale.width, scale.lite_width, bias=False),
            # Numbered by adapter layer, not by block.
            lite / "ip_layers.safetensors",
        )
        arcface = models_dir / "arcface"
        arcface.mkdir()
        torch.save(face_tensors(), arcface / "recognition_arcface_ir_se50.pth")
        # A pickle that the lock does not list is not opened.
        list_pickle(arcface / "recognition_arcface_ir_se50.pth", models_dir)
    return tuple(sorted(path.name for path in models_dir.iterdir()))


def list_pickle(path: Path, models_dir: Path) -> None:
    """Put a pickle's sha256 into the lock of `models_dir`, as it is now."""
    name = path.relative_to(models_dir).as_posix()
    add_to_lock(models_dir, {name: LockedFile(digest_file(path), digest=OF_FILE_FOUND)})


def face_tensors(stem: int = 4) -> dict[str, torch.Tensor]:
    """Return IR-SE50's tensors, all names as released, with `stem` / 64 of its channels."""
    tensors: dict[str, torch.Tensor] = {"input_layer.0.weight": _conv(stem, 3, 3)}
    tensors |= _batch_norm("input_layer.1", stem)
    tensors["input_layer.2.weight"] = torch.full((stem,), 0.25)
    channels, number = stem, 0
    for out, units in ((stem, 3), (2 * stem, 4), (4 * stem, 14), (8 * stem, 3)):
        for _ in range(units):
            unit = f"body.{number}"
            tensors |= _batch_norm(f"{unit}.res_layer.0", channels)
            tensors[f"{unit}.res_layer.1.weight"] = _conv(out, channels, 3)
            tensors[f"{unit}.res_layer.2.weight"] = torch.full((out,), 0.25)
            tensors[f"{unit}.res_layer.3.weight"] = _conv(out, out, 3)
            tensors |= _batch_norm(f"{unit}.res_layer.4", out)
            tensors[f"{unit}.res_layer.5.fc1.weight"] = _conv(max(1, out // 16), out, 1)
            tensors[f"{unit}.res_layer.5.fc2.weight"] = _conv(out, max(1, out // 16), 1)
            if channels != out:
                tensors[f"{unit}.shortcut_layer.0.weight"] = _conv(out, channels, 1)
                tensors |= _batch_norm(f"{unit}.shortcut_layer.1", out)
            channels, number = out, number + 1
    tensors |= _batch_norm("output_layer.0", channels)
    flat = channels * 7 * 7
    tensors["output_layer.3.weight"] = torch.randn(512, flat) / flat**0.5
    tensors["output_layer.3.bias"] = torch.zeros(512)
    return tensors | _batch_norm("output_layer.4", 512)


def _write_base(base: Path, scale: Scale) -> None:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    vocabulary = _vocabulary()
    transformer = WanTransformer3DModel(
        num_attention_heads=scale.heads,
        attention_head_dim=scale.head_width,
        num_layers=scale.blocks,
        ffn_dim=2 * scale.width,
        text_dim=scale.text_width,
        freq_dim=64,
        rope_max_seq_len=128,
    )
    transformer.save_pretrained(base / "transformer", max_shard_size=SHARD_BYTES)
    vae = AutoencoderKLWan(base_dim=8, num_res_blocks=1)
    vae.save_pretrained(base / "vae")
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(vocabulary),
            d_model=scale.text_width,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    encoder.save_pretrained(base / "text_encoder", max_shard_size=SHARD_BYTES)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    scheduler.save_pretrained(base / "scheduler")
    _write_tokenizer(base / "tokenizer", vocabulary)
    parts: dict[str, Any] = {
        "_class_name": "WanPipeline",
        "_diffusers_version": "0.33.0.dev0",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (base / "model_index.json").write_text(json.dumps(parts, indent=2), encoding="utf-8")


def _vocabulary() -> list[tuple[str, float]]:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"<0x{byte:02X}>", -12.0) for byte in range(256)]
    return pieces + [(chr(code), -6.0) for code in range(ord("!"), ord("~") + 1)]


def _write_tokenizer(folder: Path, vocabulary: list[tuple[str, float]]) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Metaspace
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=2, byte_fallback=True))
    tokenizer.pre_tokenizer = Metaspace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def _resampler(out: int, *, width: int = 64, layers: int = 4) -> dict[str, torch.Tensor]:
    tensors = {
        "latents": torch.randn(1, 16, width) / width**0.5,
        "proj_in.weight": torch.randn(width, 512),
        "proj_in.bias": torch.zeros(width),
        "proj_out.weight": _matrix(out, width),
        "proj_out.bias": torch.zeros(out),
    } | _layer_norm("norm_out", out)
    for n in range(layers):
        tensors |= _layer_norm(f"layers.{n}.0.norm1", width)
        tensors |= _layer_norm(f"layers.{n}.0.norm2", width)
        tensors[f"layers.{n}.0.to_q.weight"] = _matrix(width, width)
        tensors[f"layers.{n}.0.to_kv.weight"] = _matrix(2 * width, width)
        tensors[f"layers.{n}.0.to_out.weight"] = _matrix(width, width)
        tensors |= _layer_norm(f"layers.{n}.1.0", width)
        tensors[f"layers.{n}.1.1.weight"] = _matrix(4 * width, width)
        tensors[f"layers.{n}.1.3.weight"] = _matrix(width, 4 * width)
    return tensors


def _projections(
    kind: str, layers: range, out: int, into: int, *, bias: bool
) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for number, _ in enumerate(layers):
        for part in ("k", "v"):
            tensors[f"{number}.to_{part}_{kind}.weight"] = _matrix(out, into)
            if bias:
                tensors[f"{number}.to_{part}_{kind}.bias"] = 0.1 * torch.randn(out)
    return tensors


def _matrix(out: int, into: int) -> torch.Tensor:
    return torch.randn(out, into) / into**0.5


def _conv(out: int, into: int, side: int) -> torch.Tensor:
    return torch.randn(out, into, side, side) / (into * side * side) ** 0.5


def _layer_norm(name: str, width: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}


def _batch_norm(name: str, channels: int) -> dict[str, torch.Tensor]:
    return {
        f"{name}.weight": torch.ones(channels),
        f"{name}.bias": torch.zeros(channels),
        f"{name}.running_mean": torch.zeros(channels),
        f"{name}.running_var": torch.ones(channels),
        f"{name}.num_batches_tracked": torch.tensor(0),
    }
