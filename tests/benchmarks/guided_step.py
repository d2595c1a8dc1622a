"""One guided step three ways on the same weights, which are random and made where they are used.

The ways: ours, stock diffusers without adapters, and the plain restatement of the released method.
It needs torch, diffusers and what diffusers needs, and nothing else: the GPU machines that it runs
on have no more.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanAttnProcessor,
    WanRotaryPosEmbed,
    WanTransformer3DModel,
)

from lynx_engine.diffusion.guidance import Guidance, IdentityGuidance, TextGuidance
from lynx_engine.models.adapters import build_identity_adapter, build_reference_adapter
from lynx_engine.models.attention import AdapterKV
from lynx_engine.models.backends import AttentionChoice
from lynx_engine.models.wan import DEFAULT_ATTENTION, WanDenoiser
from lynx_engine.variants import get_variant
from lynx_engine.variants.spec import IdentityAdapterSpec
from tests.support.restatement import Adapters, Condition, Restatement

TEXT_TOKENS, IDENTITY_TOKENS, REGISTERS, REFERENCE_TOKENS = 512, 16, 4, 256
_SEED = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a base model and of a clip.

    Attributes:
        blocks: Transformer blocks.
        heads: N; the width is N times `head_width`.
        head_width: D / N.
        ffn: Width inside the feed-forward.
        text_width: Width of the text tokens.
        lite_width: Width of lite's identity tokens.
        cells: T, h, w of the latents.
    """

    blocks: int
    heads: int
    head_width: int
    ffn: int
    text_width: int
    lite_width: int
    cells: tuple[int, int, int]

    @property
    def width(self) -> int:
        """D."""
        return self.heads * self.head_width

    @property
    def tokens(self) -> int:
        """L."""
        frames, height, width = self.cells
        return frames * (height // 2) * (width // 2)

    @property
    def flops_of_pass(self) -> float:
        """Floating-point operations of one pass of the base model, a multiply-add being two."""
        length, d = self.tokens, self.width
        own = 4 * length * d * d + 2 * length * length * d
        cross = 2 * length * d * d + 2 * TEXT_TOKENS * d * d + 2 * length * TEXT_TOKENS * d
        return 2 * self.blocks * (own + cross + 2 * length * d * self.ffn)


@dataclass(frozen=True, slots=True, eq=False)
class GuidedStep:
    """A variant's guided step, ready to run three ways.

    Attributes:
        variant: lynx_full or lynx_lite.
        shape: Sizes.
        denoiser: Ours.
        stock: diffusers' transformer on the same weights, same attention backend.
        plain: The restatement, on the same weights.
    """

    variant: str
    shape: Shape
    denoiser: WanDenoiser
    stock: WanTransformer3DModel
    plain: Restatement
    latents: torch.Tensor
    timestep: torch.Tensor
    texts: Sequence[torch.Tensor]
    adapters: Sequence[AdapterKV]
    conditions: Sequence[Condition]
    guidance: Guidance

    @property
    def passes(self) -> int:
        """Branches of a step."""
        return len(self.texts)

    def ours(self) -> torch.Tensor:
        """Run the step as the engine does; inside `WanDenoiser.clip`."""
        branches = get_variant(self.variant).branches
        with self.denoiser.step():
            velocities = [
                self.denoiser.velocity(
                    self.latents, self.timestep, text=text, adapters=adapters, branch=branch
                )
                for text, adapters, branch in zip(self.texts, self.adapters, branches, strict=True)
            ]
        return self.guidance.combine(velocities)

    def without_adapters(self) -> torch.Tensor:
        """Run the same passes with stock diffusers, without adapters."""
        dtype = self.stock.dtype
        velocities = [
            self.stock(self.latents.to(dtype), self.timestep, text, return_dict=False)[0].float()
            for text in self.texts
        ]
        return self.guidance.combine(velocities)

    def restated(self) -> torch.Tensor:
        """Run the step as the released method reads."""
        velocities = [
            self.plain.velocity(self.latents, self.timestep, condition)
            for condition in self.conditions
        ]
        return self.guidance.combine(velocities)


@dataclass(slots=True)
class RandomTensors:
    """Draws weights where they are used, the same for the same order of draws."""

    device: torch.device
    dtype: torch.dtype
    generator: torch.Generator | None = field(init=False)

    def __post_init__(self) -> None:
        # The meta device draws nothing.
        draws = self.device.type != "meta"
        self.generator = torch.Generator(self.device).manual_seed(_SEED) if draws else None

    def draw(
        self, *shape: int, std: float = 0.02, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        tensor = torch.empty(shape, device=self.device, dtype=dtype or self.dtype)
        return tensor.normal_(0, std, generator=self.generator)


def make_transformer(shape: Shape, tensors: RandomTensors) -> WanTransformer3DModel:
    """Return a base model of N(0, 0.02) weights, of the types in which diffusers loads it.

    Norms are 1 + N(0, 0.02): of 0.02 they would shrink what the attention sees to nothing.
    """
    with torch.device("meta"):
        model = WanTransformer3DModel(
            num_attention_heads=shape.heads,
            attention_head_dim=shape.head_width,
            text_dim=shape.text_width,
            ffn_dim=shape.ffn,
            num_layers=shape.blocks,
        )
    exact = tuple(model._keep_in_fp32_modules or ())
    drawn: dict[str, torch.Tensor] = {}
    for name, weight in model.named_parameters():
        dtype = torch.float32 if any(part in name for part in exact) else tensors.dtype
        drawn[name] = tensors.draw(*weight.shape, dtype=dtype)
        if "norm" in name and name.endswith("weight"):
            drawn[name] += 1
    model.load_state_dict(drawn, assign=True)
    # Its tables are no weights; on the meta device they were not made.
    with tensors.device:
        model.rope = WanRotaryPosEmbed(shape.head_width, (1, 2, 2), 1024)
    return model.eval().requires_grad_(False)


def share_weights(model: WanTransformer3DModel, backend: str) -> WanTransformer3DModel:
    """Return a stock model on the very tensors of `model`, attending with `backend`."""
    with torch.device("meta"):
        twin = WanTransformer3DModel.from_config(model.config)
    assert isinstance(twin, WanTransformer3DModel)
    twin.load_state_dict(model.state_dict(), assign=True)
    with model.device:
        twin.rope = WanRotaryPosEmbed(model.config["attention_head_dim"], (1, 2, 2), 1024)
    for module in twin.modules():
        if isinstance(module, WanAttention):
            processor = WanAttnProcessor()
            processor._attention_backend = AttentionBackendName(backend)  # type: ignore[assignment]
            module.set_processor(processor)  # type: ignore[arg-type]
    return twin.eval().requires_grad_(False)


def make_step(
    variant: str,
    shape: Shape,
    *,
    device: torch.device,
    dtype: torch.dtype,
    attention: AttentionChoice = DEFAULT_ATTENTION,
    compiles: bool = False,
    transformer: WanTransformer3DModel | None = None,
) -> GuidedStep:
    """Return a variant's guided step.

    Args:
        variant: lynx_full or lynx_lite.
        shape: Sizes.
        device: Where all of it lies.
        dtype: Type of the pass.
        attention: The backend of ours and of stock.
        compiles: Whether ours runs compiled.
        transformer: Base model to use; made if None.
    """
    spec = get_variant(variant)
    assert spec.identity is not None
    tensors = RandomTensors(device, dtype)
    transformer = transformer or make_transformer(shape, tensors)
    full = spec.uses_reference
    identity, reference = _adapter_tensors(variant, shape, tensors)
    adapters = Adapters(
        identity,
        reference if full else None,
        spec.identity.block_stride,
        spec.identity.shares_text_key_norm,
    )
    # The subject, and none.
    subjects = [_make_subject(adapters, shape, tensors) for _ in range(2)]
    kvs = [_project(adapters, subject, spec.identity, transformer) for subject in subjects]
    text, negative = (tensors.draw(1, TEXT_TOKENS, shape.text_width, std=1) for _ in range(2))
    inputs = {"unconditional": (negative, 1), "identity": (negative, 0), "full": (text, 0)}
    used = [inputs[branch] for branch in spec.branches]
    return GuidedStep(
        variant=variant,
        shape=shape,
        denoiser=WanDenoiser(transformer, spec, attention=attention, compiles=compiles),
        stock=share_weights(transformer, attention.dispatcher),
        plain=Restatement(transformer.state_dict(), shape.heads, adapters),
        latents=tensors.draw(1, 16, *shape.cells, std=1, dtype=torch.float32),
        timestep=torch.full((1,), 500, device=device),
        texts=[words for words, _ in used],
        adapters=[kvs[who] for _, who in used],
        conditions=[Condition(words, *subjects[who]) for words, who in used],
        guidance=IdentityGuidance(text=5.0, identity=2.0) if full else TextGuidance(text=5.0),
    )


Subject = tuple[torch.Tensor, list[torch.Tensor]]
"""Identity tokens [1, 16, D_in], and reference features, one a block, [1, L, D]; none for lite."""


def _make_subject(adapters: Adapters, shape: Shape, tensors: RandomTensors) -> Subject:
    width = adapters.identity["0.to_k_ip.weight"].shape[1]
    count = 0 if adapters.reference is None else shape.blocks
    features = [tensors.draw(1, REFERENCE_TOKENS, shape.width, std=1) for _ in range(count)]
    return tensors.draw(1, IDENTITY_TOKENS, width, std=1), features


def _project(
    adapters: Adapters,
    subject: Subject,
    spec: IdentityAdapterSpec,
    transformer: WanTransformer3DModel,
) -> AdapterKV:
    """Return a subject's keys and values, projected by the engine's own adapters."""
    tokens, features = subject
    blocks = len(transformer.blocks)
    width = transformer.proj_out.in_features
    here = Path("random")
    identity = build_identity_adapter(adapters.identity, spec, here, blocks=blocks, width=width)
    reference = {}
    if adapters.reference is not None:
        layers = build_reference_adapter(adapters.reference, here, blocks=blocks, width=width)
        reference = layers.project(features, transformer, scale=1.0)
    return AdapterKV(identity.project(tokens, transformer, scale=1.0), reference)


Clock = Callable[[Callable[[], object]], float]
"""Runs something once and returns the seconds it took."""


def interleaved(ways: Sequence[Callable[[], object]], rounds: int, clock: Clock) -> list[float]:
    """Return each way's median seconds, run A B ... B A, `rounds` times over."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for number in (*range(len(ways)), *reversed(range(len(ways)))):
            times[number].append(clock(ways[number]))
    return [statistics.median(seconds) for seconds in times]


def processor_clock(work: Callable[[], object]) -> float:
    """Time work of one thread by the processor time it got, whatever else the machine does."""
    started = time.process_time()
    work()
    return time.process_time() - started


@contextmanager
def steady(step: GuidedStep) -> Generator[None]:
    """Be in the middle of a clip: what is made once a clip is made already."""
    with torch.inference_mode(), step.denoiser.clip("normal"):
        step.ours()
        yield


def _adapter_tensors(
    variant: str, shape: Shape, tensors: RandomTensors
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return what `ip_layers.safetensors` and `ref_layers.safetensors` hold, or {}."""
    width = shape.width
    if variant == "lynx_lite":
        return _projections("ip", -(-shape.blocks // 2), width, shape.lite_width, tensors), {}
    identity = _projections("ip", shape.blocks, width, width, tensors)
    for name in list(identity):
        if name.endswith(".weight"):
            identity[name.replace("weight", "bias")] = tensors.draw(width)
    identity |= {f"{n}.registers": tensors.draw(1, REGISTERS, width) for n in range(shape.blocks)}
    reference = _projections("ref", shape.blocks, width, width, tensors)
    for name in list(reference):
        reference[name.replace("weight", "bias")] = tensors.draw(width)
    return identity, reference


def _projections(
    kind: str, layers: int, width: int, source: int, tensors: RandomTensors
) -> dict[str, torch.Tensor]:
    return {
        f"{layer}.to_{part}_{kind}.weight": tensors.draw(width, source)
        for layer in range(layers)
        for part in ("k", "v")
    }
