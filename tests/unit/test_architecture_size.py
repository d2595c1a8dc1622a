"""The counted dimensions against the real networks and the published numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from lynx_engine.capacity.architecture import AdapterSize, TextSize, TransformerSize, VaeSize
from lynx_engine.models.resampler import Resampler
from lynx_engine.models.tiny_weights import build_tiny_weights
from lynx_engine.variants import get_variant
from lynx_engine.variants.dimensions import architecture_of
from tests.support.weights import Scale, write_public_layout


def numbers_of(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_14b_has_the_published_numbers_of_weights() -> None:
    full = architecture_of(get_variant("lynx_full"), None)
    lite = architecture_of(get_variant("lynx_lite"), None)
    assert full is not None
    assert lite is not None
    assert full.adapters is not None
    assert lite.adapters is not None
    base = full.transformer
    billions = [
        round(count / 1e9, 2)
        for count in (
            base.numbers,
            full.adapters.identity_numbers(base),
            full.adapters.reference_numbers(base),
            lite.adapters.identity_numbers(base),
        )
    ]
    assert billions == [14.29, 2.10, 2.10, 0.42]
    assert (base.tokens(81, 480, 832), base.tokens(121, 480, 832)) == (32760, 48360)


@pytest.mark.parametrize(
    "size", [TransformerSize(), TransformerSize(2, 3, 24, 100, 64, 48)], ids=["14B", "small"]
)
def test_transformer_has_the_numbers_of_diffusers_own(size: TransformerSize) -> None:
    with torch.device("meta"):
        network = WanTransformer3DModel(
            num_layers=size.blocks,
            num_attention_heads=size.heads,
            attention_head_dim=size.head_width,
            ffn_dim=size.ffn_width,
            text_dim=size.text_width,
            freq_dim=size.frequency_width,
        )
    assert numbers_of(network) == size.numbers
    assert numbers_of(network.blocks[0]) == size.block_numbers
    kept = set(WanTransformer3DModel._keep_in_fp32_modules)  # pyright: ignore
    exact = {n: w for n, w in network.named_parameters() if not kept.isdisjoint(n.split("."))}
    in_blocks = sum(w.numel() for name, w in exact.items() if name.startswith("blocks."))
    assert in_blocks == size.blocks * size.block_exact
    assert sum(w.numel() for w in exact.values()) - in_blocks == size.head_exact


@pytest.mark.parametrize("size", [VaeSize(), VaeSize(8, residuals=1)], ids=["14B", "small"])
def test_autoencoder_has_the_numbers_of_diffusers_own(size: VaeSize) -> None:
    with torch.device("meta"):
        network = AutoencoderKLWan(base_dim=size.base, num_res_blocks=size.residuals)
    looking_back = [
        module.in_channels
        for module in network.decoder.modules()
        if isinstance(module, WanCausalConv3d) and module.kernel_size[0] > 1
    ]
    assert numbers_of(network) == size.numbers
    assert sorted(looking_back) == sorted(into for into, _ in size.decoder_convolutions())


def test_text_encoder_and_resampler_have_the_numbers_of_the_real_ones() -> None:
    x = TextSize()
    settings = UMT5Config(
        d_model=x.width,
        d_ff=x.ffn_width,
        d_kv=x.inner // x.heads,
        num_heads=x.heads,
        num_layers=x.layers,
        vocab_size=x.vocabulary,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        encoder = UMT5EncoderModel(settings)
        resampler = Resampler(tokens=16, width=1280, inner=1280, layers=4, embedding=512, out=5120)
    assert numbers_of(encoder) == x.numbers
    assert numbers_of(resampler) == AdapterSize(1, 5120, biased=True).resampler_numbers


def test_files_on_disk_go_before_published_numbers(tmp_path: Path) -> None:
    scale = Scale()
    write_public_layout(tmp_path, scale)
    found = architecture_of(get_variant("lynx_full"), tmp_path)
    lite = architecture_of(get_variant("lynx_lite"), tmp_path)
    assert found is not None
    assert found.adapters is not None
    assert lite is not None
    assert lite.adapters is not None
    assert (found.transformer.blocks, found.transformer.width) == (scale.blocks, scale.width)
    assert found.text.width == scale.text_width
    assert (found.adapters.token_width, found.adapters.registers) == (scale.width, scale.registers)
    assert lite.adapters.token_width == scale.lite_width


def test_tiny_is_read_from_what_its_recipe_made(tmp_path: Path) -> None:
    build_tiny_weights(tmp_path / "tiny")
    found = architecture_of(get_variant("tiny"), tmp_path / "tiny")
    assert found is not None
    assert found.adapters is not None
    config = json.loads((tmp_path / "tiny/base/transformer/config.json").read_text())
    assert found.transformer.blocks == config["num_layers"]
    assert found.adapters.resampler_layers == 2
    assert found.vae.base == 8


@pytest.mark.parametrize("damage", [b"", b"\xff" * 64, b"{", b"[]"])
def test_damaged_file_leaves_the_published_number(tmp_path: Path, damage: bytes) -> None:
    spec = get_variant("lynx_full")
    for path in (
        tmp_path / spec.base / "transformer/config.json",
        tmp_path / "lynx_full/ip_layers.safetensors",
    ):
        path.parent.mkdir(parents=True)
        path.write_bytes(damage)
    assert architecture_of(spec, tmp_path) == architecture_of(spec, None)


def test_variant_without_a_model_has_no_dimensions() -> None:
    assert architecture_of(get_variant("sleeper"), None) is None
