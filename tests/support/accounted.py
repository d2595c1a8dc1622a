"""What each phase of a job holds on its device, counted by running the real networks on meta.

The networks are those the engine runs: diffusers' transformer with this package's attention,
its autoencoder, transformers' UMT5. Nothing is computed, so the true 14B sizes take seconds. What a
`Placement` keeps in host memory is left out; what visits is held at its largest, two blocks at a
time (one computes, the next one arrives).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from lynx_engine.capacity.architecture import REFERENCE_TOKENS, TEXT_TOKENS, Architecture
from lynx_engine.capacity.placement import Placement
from lynx_engine.diffusion.guidance import Guidance, IdentityGuidance, TextGuidance
from lynx_engine.diffusion.latents import latent_shape
from lynx_engine.diffusion.sampler import sample
from lynx_engine.diffusion.schedule import start_schedule
from lynx_engine.models.attention import AdapterKV, KeyValue
from lynx_engine.models.device import PRECISIONS
from lynx_engine.models.resampler import Resampler
from lynx_engine.models.tiny_layout import SCHEDULER
from lynx_engine.models.vae import VideoAutoencoder
from lynx_engine.models.wan import WanDenoiser
from lynx_engine.shapes import FrameSize
from lynx_engine.variants.spec import VariantSpec
from tests.support.byte_accounting import ByteAccounting, Peak

META = torch.device("meta")
_VISITING_BLOCKS = 2
# Two steps reach the largest state of a second-order solver.
_STEPS = 3


def account(
    spec: VariantSpec,
    size_of: Architecture,
    *,
    frames: int,
    size: FrameSize,
    precision: str,
    placement: Placement,
    device: torch.device = META,
) -> dict[str, Peak]:
    """Return phase -> its largest moment: text, denoise and decode.

    The subject phase is a denoise of 256 tokens and never the largest.
    """
    dtype = PRECISIONS[precision]
    transformer = build_transformer(size_of, dtype, device)
    return {
        "text": _account_text(size_of, transformer, dtype, placement),
        "denoise": _account_denoise(
            spec, size_of, transformer, frames=frames, size=size, placement=placement
        ),
        "decode": _account_decode(size_of, transformer, frames, size, placement),
    }


def build_transformer(
    size_of: Architecture, dtype: torch.dtype, device: torch.device = META
) -> WanTransformer3DModel:
    """Return the transformer, untrained, in the types in which diffusers loads it."""
    t = size_of.transformer
    with device:
        transformer = WanTransformer3DModel(
            patch_size=t.cell,
            num_attention_heads=t.heads,
            attention_head_dim=t.head_width,
            in_channels=t.channels,
            out_channels=t.channels,
            text_dim=t.text_width,
            freq_dim=t.frequency_width,
            ffn_dim=t.ffn_width,
            num_layers=t.blocks,
        )
    exact = set(WanTransformer3DModel._keep_in_fp32_modules)  # pyright: ignore
    for name, weight in transformer.named_parameters():
        if exact.isdisjoint(name.split(".")):
            weight.data = weight.data.to(dtype)
    return transformer.eval().requires_grad_(False)


def build_subject_parts(
    size_of: Architecture, dtype: torch.dtype, device: torch.device = META
) -> list[torch.Tensor]:
    """Return weights that lie on the device with the autoencoder: the subject's."""
    a = size_of.adapters
    if a is None:
        return []
    width = a.resampler_width
    with device:
        resampler = Resampler(
            tokens=a.tokens,
            width=width,
            inner=width,
            layers=a.resampler_layers,
            embedding=512,
            out=a.token_width,
        ).to(dtype)
        recogniser = torch.empty(a.recogniser, dtype=torch.float32)
    return [*resampler.parameters(), recogniser]


@cache
def build_vae(size_of: Architecture, device: torch.device = META) -> AutoencoderKLWan:
    """Return the autoencoder, untrained, float32."""
    v = size_of.vae
    with device:
        vae = AutoencoderKLWan(
            base_dim=v.base,
            z_dim=v.channels,
            dim_mult=list(v.multiples),
            num_res_blocks=v.residuals,
            temperal_downsample=list(v.halves_time),
        )
    return vae.eval().requires_grad_(False)


def make_adapters(size_of: Architecture, dtype: torch.dtype, device: torch.device) -> AdapterKV:
    """Return one branch's keys and values, empty."""
    t, a = size_of.transformer, size_of.adapters
    if a is None:
        return AdapterKV()

    def pair(length: int) -> KeyValue:
        shape = (1, length, t.heads, t.head_width)
        key, value = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
        return KeyValue(key, value)

    identity = {b: pair(a.tokens + a.registers) for b in range(0, t.blocks, a.block_stride)}
    blocks = range(t.blocks if a.reference else 0)
    return AdapterKV(identity, {b: pair(REFERENCE_TOKENS) for b in blocks})


def guidance_for(size_of: Architecture) -> Guidance:
    """Return guidance over as many branches as the variant has."""
    return IdentityGuidance(5.0, 2.0) if size_of.branches == 3 else TextGuidance(5.0)


def _account_denoise(
    spec: VariantSpec,
    size_of: Architecture,
    transformer: WanTransformer3DModel,
    *,
    frames: int,
    size: FrameSize,
    placement: Placement,
) -> Peak:
    denoiser = WanDenoiser(transformer, spec)
    dtype = transformer.dtype
    accounting = ByteAccounting()
    _hold_blocks(accounting, transformer, placement)
    _hold_others(accounting, size_of, transformer, placement)
    t = size_of.transformer
    sets = (
        [make_adapters(size_of, dtype, transformer.device) for _ in range(2)]
        if size_of.adapters
        else []
    )
    for adapters in sets:
        pairs = [*adapters.identity.values(), *adapters.reference.values()]
        accounting.hold("adapter K/V", (x for pair in pairs for x in (pair.key, pair.value)))
    if placement.keeps_text_kv:
        kept = torch.empty(
            2, 2, t.blocks, TEXT_TOKENS, t.width, dtype=dtype, device=transformer.device
        )
        accounting.hold("text K/V", [kept])
    tokens = t.tokens(frames, size.height_px, size.width_px)
    if placement.shares_first_block:
        shared = torch.empty(2, tokens, t.width, dtype=dtype, device=transformer.device)
        accounting.hold("shared first block", [shared])
    texts = torch.empty(2, 1, TEXT_TOKENS, t.text_width, dtype=dtype, device=transformer.device)
    accounting.hold("text tokens", [texts])
    without, subject = sets or [AdapterKV(), AdapterKV()]
    inputs = ((texts[0], without), (texts[0], subject), (texts[1], subject))[-size_of.branches :]

    def branch(text: torch.Tensor, adapters: AdapterKV) -> object:
        return lambda latents, at: denoiser.velocity(latents, at, text=text, adapters=adapters)

    with torch.inference_mode(), accounting:
        noise = torch.empty(latent_shape(frames, size, frame_stride=4), device=transformer.device)
        sample(
            noise,
            [branch(*given) for given in inputs],  # pyright: ignore[reportArgumentType]
            schedule=start_schedule(dict(SCHEDULER), steps=_STEPS),
            guidance=guidance_for(size_of),
        )
    return accounting.peak


def _account_decode(
    size_of: Architecture,
    transformer: WanTransformer3DModel,
    frames: int,
    size: FrameSize,
    placement: Placement,
) -> Peak:
    device = transformer.device
    made = _decode_alone(size_of, frames, size, placement.vae_tiled, device)
    accounting = ByteAccounting()
    if not placement.blocks_leave_for_decode:
        _hold_blocks(accounting, transformer, placement)
    if not placement.others_wait:
        accounting.hold(
            "subject models", build_subject_parts(size_of, transformer.dtype, transformer.device)
        )
    accounting.hold("autoencoder", build_vae(size_of, transformer.device).parameters())
    held = accounting.peak.held
    return Peak(sum(held.values()) + made.made_bytes, made.operation, held, made.alive)


@cache
def _decode_alone(
    size_of: Architecture, frames: int, size: FrameSize, tiled: bool, device: torch.device
) -> Peak:
    vae = build_vae(size_of, device)
    decoder, accounting = VideoAutoencoder(vae), ByteAccounting()
    accounting.leave_out(vae.parameters())
    with torch.inference_mode(), accounting:
        latents = torch.empty(latent_shape(frames, size, frame_stride=4), device=device)
        decoder.decode(latents, tiled=tiled)
    return accounting.peak


def _account_text(
    size_of: Architecture,
    transformer: WanTransformer3DModel,
    dtype: torch.dtype,
    placement: Placement,
) -> Peak:
    x = size_of.text
    settings = UMT5Config(
        num_layers=x.layers,
        d_model=x.width,
        d_kv=x.inner // x.heads,
        num_heads=x.heads,
        d_ff=x.ffn_width,
        vocab_size=x.vocabulary,
        feed_forward_proj="gated-gelu",
    )
    with transformer.device:
        encoder = UMT5EncoderModel(settings)
    encoder.eval().to(dtype=dtype)  # pyright: ignore[reportCallIssue]
    accounting = ByteAccounting()
    _hold_blocks(accounting, transformer, placement)
    _hold_others(accounting, size_of, transformer, placement)
    blocks: list[nn.Module] = list(encoder.encoder.block)
    visiting = (w for block in blocks[:_VISITING_BLOCKS] for w in block.parameters())
    accounting.hold("visiting text layers", visiting)
    # The table is looked up where it waits; the other layers take the places of the first two.
    accounting.leave_out(encoder.parameters())
    with torch.inference_mode(), accounting:
        encoder(torch.zeros(1, TEXT_TOKENS, dtype=torch.int64, device=transformer.device))
    return accounting.peak


def _hold_blocks(
    accounting: ByteAccounting, transformer: WanTransformer3DModel, placement: Placement
) -> None:
    blocks: list[nn.Module] = list(transformer.blocks)
    staying = len(blocks) - placement.streamed_blocks
    in_blocks = {id(w) for block in blocks for w in block.parameters()}
    rest = [w for w in transformer.parameters() if id(w) not in in_blocks]
    accounting.hold("embeddings and output", [*rest, *transformer.buffers()])
    accounting.hold("resident blocks", _weights(blocks[:staying]))
    visiting = blocks[staying : staying + _VISITING_BLOCKS]
    accounting.hold("visiting blocks", _weights(visiting))
    accounting.leave_out(_weights(blocks))


def _hold_others(
    accounting: ByteAccounting,
    size_of: Architecture,
    transformer: WanTransformer3DModel,
    placement: Placement,
) -> None:
    if not placement.others_wait:
        device = transformer.device
        accounting.hold("autoencoder", build_vae(size_of, device).parameters())
        parts = build_subject_parts(size_of, transformer.dtype, device)
        accounting.hold("subject models", parts)


def _weights(blocks: Iterable[nn.Module]) -> Iterable[torch.Tensor]:
    return (weight for block in blocks for weight in block.parameters())
