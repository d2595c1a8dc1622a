"""What each phase of a job holds on its device, counted by running the real networks on meta.

The networks are those the engine runs: diffusers' transformer with this package's attention,
its autoencoder, transformers' UMT5. Nothing is computed, so the true 14B sizes take seconds. The
engine's own code places the transformer, streams its blocks and keeps what steps and branches
share; only what a `Placement` keeps in host memory is left out. The text encoder's layers are held
two at a time, as its stream does.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from lynx_engine.capacity.architecture import REFERENCE_TOKENS, TEXT_TOKENS, Architecture
from lynx_engine.capacity.placement import Placement
from lynx_engine.diffusion.guidance import (
    DistilledGuidance,
    Guidance,
    IdentityGuidance,
    TextGuidance,
)
from lynx_engine.diffusion.latents import latent_shape
from lynx_engine.diffusion.sampler import Branch, sample
from lynx_engine.diffusion.schedule import start_schedule
from lynx_engine.jobs import Lora
from lynx_engine.models.attention import AdapterKV, KeyValue
from lynx_engine.models.blocks import TransformerResidence
from lynx_engine.models.caching import step_cache
from lynx_engine.models.device import PRECISIONS
from lynx_engine.models.loras import LoraShelf
from lynx_engine.models.resampler import Resampler
from lynx_engine.models.residence import Residence
from lynx_engine.models.streaming import PLACES
from lynx_engine.models.tensor_files import SafetensorsSource
from lynx_engine.models.tiny_layout import SCHEDULER
from lynx_engine.models.vae import VideoAutoencoder
from lynx_engine.models.wan import WanDenoiser
from lynx_engine.shapes import FrameSize
from lynx_engine.speed import EXACT, is_cached
from lynx_engine.variants.spec import VariantSpec
from tests.support.byte_accounting import ByteAccounting, Peak

META = torch.device("meta")
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
    speed: str = EXACT,
    loras: Sequence[Lora] = (),
    device: torch.device = META,
) -> dict[str, Peak]:
    """Return phase -> its largest moment: text, denoise and decode.

    The subject phase is a denoise of 256 tokens and never the largest. A cached `speed` needs a
    device with numbers: its first block decides by them.
    """
    dtype = PRECISIONS[precision]
    transformer = build_transformer(size_of)
    source = ZerosSource.of(transformer)
    residence = TransformerResidence(
        transformer, source, device=device, dtype=dtype, cache_dir=None
    )
    residence.place(placement.streamed_blocks)
    lying = Lying(transformer, placement, device)
    try:
        # First: it shows what visits.
        denoise = _account_denoise(
            spec, size_of, lying, frames=frames, size=size, dtype=dtype, speed=speed, loras=loras
        )
        return {
            "text": _account_text(size_of, lying, dtype),
            "denoise": denoise,
            "decode": _account_decode(size_of, lying, frames, size, dtype),
        }
    finally:
        residence.leave()


class ZerosSource(SafetensorsSource):
    """Tensors of the shapes asked for, in no file; their zeros take no memory."""

    @classmethod
    def of(cls, network: nn.Module) -> ZerosSource:
        """Return the source of every parameter of `network`."""
        shapes = {name: tuple(weight.shape) for name, weight in network.named_parameters()}
        return cls(Path("nowhere"), dict.fromkeys(shapes, Path("nowhere")), shapes, {})

    def read(self, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each of `names` with its zeros."""
        return ((name, torch.zeros(()).expand(self.shapes[name])) for name in names)


class Lying:
    """A transformer where its placement put it.

    Attributes:
        transformer: The stock model.
        placement: Where its tensors lie.
        device: Where it computes.
    """

    def __init__(
        self, transformer: WanTransformer3DModel, placement: Placement, device: torch.device
    ) -> None:
        """Look at `transformer`, which is placed."""
        self.transformer = transformer
        self.placement = placement
        self.device = device
        self._blocks: list[nn.Module] = list(transformer.blocks)
        self._staying = len(self._blocks) - placement.streamed_blocks
        self._seen: list[torch.Tensor] = []

    def hold(self, accounting: ByteAccounting) -> None:
        """Count what lies on the device, and what was seen to visit it."""
        streamed = self._blocks[self._staying :]
        waits = {id(w) for block in streamed for w in block.parameters() if w.ndim == 2}
        in_blocks = {id(w) for block in self._blocks for w in block.parameters()}
        rest = [w for w in self.transformer.parameters() if id(w) not in in_blocks]
        accounting.hold("embeddings and output", [*rest, *self.transformer.buffers()])
        present = (w for block in self._blocks for w in block.parameters() if id(w) not in waits)
        accounting.hold("resident blocks", present)
        accounting.hold("visiting blocks", self._seen)

    @contextmanager
    def visitors_counted(self, accounting: ByteAccounting) -> Generator[None]:
        """Count what the stream puts into each block, as it comes, inside the block."""

        def see(block: nn.Module, _inputs: object) -> None:
            self._seen += block.parameters()
            accounting.hold("visiting blocks", block.parameters())

        streamed = self._blocks[self._staying :]
        # Behind the stream's own hooks, which have filled the block by then.
        handles = [block.register_forward_pre_hook(see) for block in streamed]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def build_transformer(size_of: Architecture) -> WanTransformer3DModel:
    """Return the transformer on the meta device, to be placed."""
    t = size_of.transformer
    with META:
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


def guidance_for(names: Sequence[str]) -> Guidance:
    """Return guidance over as many branches as a step has."""
    return {
        1: DistilledGuidance(),
        2: TextGuidance(5.0),
        3: IdentityGuidance(5.0, 2.0),
    }[len(names)]


def _account_denoise(
    spec: VariantSpec,
    size_of: Architecture,
    lying: Lying,
    *,
    frames: int,
    size: FrameSize,
    dtype: torch.dtype,
    speed: str,
    loras: Sequence[Lora],
) -> Peak:
    denoiser, device = WanDenoiser(lying.transformer, spec), lying.device
    denoiser.placement = lying.placement
    accounting = ByteAccounting()
    lying.hold(accounting)
    _hold_others(accounting, size_of, lying, dtype)
    names = spec.branches_at(speed)
    count = min(len(names), 2) if size_of.adapters else 0
    pairs = [make_adapters(size_of, dtype, device) for _ in range(count)]
    for adapters in pairs:
        made = [*adapters.identity.values(), *adapters.reference.values()]
        accounting.hold("adapter K/V", (x for pair in made for x in (pair.key, pair.value)))
    width = size_of.transformer.text_width
    texts = [torch.empty(1, TEXT_TOKENS, width, dtype=dtype, device=device) for _ in names[:2]]
    accounting.hold("text tokens", texts)
    prompt, negative = texts[0], texts[-1]
    subject, without = (pairs[0], pairs[-1]) if pairs else (AdapterKV(), AdapterKV())
    inputs = {
        "unconditional": (negative, without),
        "identity": (negative, subject),
        "text": (prompt, without),
        "full": (prompt, subject),
    }

    def branch(name: str) -> Branch:
        text, adapters = inputs[name]
        return partial(denoiser.velocity, text=text, adapters=adapters, branch=name)

    threshold = spec.cache_threshold if is_cached(speed) else None
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(denoiser.clip("normal"))
        stack.enter_context(LoraShelf(lying.transformer, device).laid_over(loras))
        lora = (w for name, w in lying.transformer.named_parameters() if ".lora_" in name)
        accounting.hold("LoRAs", lora)
        cache = stack.enter_context(step_cache(lying.transformer, threshold=threshold))
        stack.enter_context(lying.visitors_counted(accounting))
        stack.enter_context(accounting)
        sample(
            torch.zeros(latent_shape(frames, size, frame_stride=4), device=device),
            cache.over(names, [branch(name) for name in names]),
            schedule=start_schedule(dict(SCHEDULER), steps=_STEPS),
            guidance=guidance_for(names),
            one_step=denoiser.step,
        )
    return accounting.peak


def _account_decode(
    size_of: Architecture, lying: Lying, frames: int, size: FrameSize, dtype: torch.dtype
) -> Peak:
    device, placement = lying.device, lying.placement
    made = _decode_alone(size_of, frames, size, placement.vae_tiled, device)
    accounting = ByteAccounting()
    if not placement.blocks_leave_for_decode:
        lying.hold(accounting)
    if not placement.others_wait:
        accounting.hold("subject models", build_subject_parts(size_of, dtype, device))
    accounting.hold("autoencoder", build_vae(size_of, device).parameters())
    held = accounting.peak.held
    return Peak(sum(held.values()) + made.made_bytes, made.operation, held, made.alive)


@cache
def _decode_alone(
    size_of: Architecture, frames: int, size: FrameSize, tiled: bool, device: torch.device
) -> Peak:
    vae = build_vae(size_of, device)
    residence = Residence(vae, ZerosSource.of(vae), device=device, dtypes=lambda _: torch.float32)
    residence.stay()
    decoder, accounting = VideoAutoencoder(vae, residence, device), ByteAccounting()
    accounting.leave_out([*vae.parameters(), decoder._mean, decoder._std])
    with torch.inference_mode(), accounting:
        latents = torch.empty(latent_shape(frames, size, frame_stride=4), device=device)
        decoder.decode(latents, tiled=tiled)
    return accounting.peak


def _account_text(size_of: Architecture, lying: Lying, dtype: torch.dtype) -> Peak:
    x, device = size_of.text, lying.device
    settings = UMT5Config(
        num_layers=x.layers,
        d_model=x.width,
        d_kv=x.inner // x.heads,
        num_heads=x.heads,
        d_ff=x.ffn_width,
        vocab_size=x.vocabulary,
        feed_forward_proj="gated-gelu",
    )
    with device:
        encoder = UMT5EncoderModel(settings)
    encoder.eval().to(dtype=dtype)  # pyright: ignore[reportCallIssue]
    accounting = ByteAccounting()
    lying.hold(accounting)
    _hold_others(accounting, size_of, lying, dtype)
    blocks: list[nn.Module] = list(encoder.encoder.block)
    visiting = (w for block in blocks[:PLACES] for w in block.parameters())
    accounting.hold("visiting text layers", visiting)
    # The table is looked up where it waits; the other layers take the places of the first two.
    accounting.leave_out(encoder.parameters())
    with torch.inference_mode(), accounting:
        encoder(torch.zeros(1, TEXT_TOKENS, dtype=torch.int64, device=device))
    return accounting.peak


def _hold_others(
    accounting: ByteAccounting, size_of: Architecture, lying: Lying, dtype: torch.dtype
) -> None:
    if not lying.placement.others_wait:
        accounting.hold("autoencoder", build_vae(size_of, lying.device).parameters())
        parts = build_subject_parts(size_of, dtype, lying.device)
        accounting.hold("subject models", parts)
