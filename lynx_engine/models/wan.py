"""The base video model, stock from diffusers, with room for a subject in its attention.

Source: Wan2.1, arXiv 2503.20314. Weights load from the public diffusers layout, never from the
network, straight into the type of the pass.

What is equal in several passes is made once: over the steps of a clip the rotation angles, the
projected text and its keys and values; over the branches of a step the patch embedding, the time
embedding and the first block's view of the clip. All of it is bit-identical to making it anew.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers.models import attention_dispatch
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanTransformer3DModel,
    WanTransformerBlock,
)

from lynx_engine.capacity.placement import RESIDENT
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.models.attention import (
    NO_ADAPTERS,
    AdapterKV,
    IdentityAttention,
    KeyValue,
    RecordingAttention,
    ReferenceAttention,
)
from lynx_engine.models.backends import (
    FLASH,
    FLASH_3,
    NATIVE,
    STRICT_ATTENTION,
    AttentionChoice,
    BackendError,
    DeviceFacts,
    choose_attention,
)
from lynx_engine.models.clip_memory import ClipMemory, StepMemory
from lynx_engine.models.compiling import BlockCompiler
from lynx_engine.models.components import build_component
from lynx_engine.models.reuse import Scope, reuse_output
from lynx_engine.models.tensor_files import SafetensorsSource

if TYPE_CHECKING:
    from lynx_engine.variants.spec import VariantSpec

logger = logging.getLogger(__name__)

DEFAULT_ATTENTION = AttentionChoice(NATIVE.dispatcher, NATIVE.title, "the default")


class WanDenoiser:
    """Predicts velocities, with or without a subject.

    Attributes:
        transformer: The stock model.
        spec: The variant it serves.
        attention: The attention backend of passes under `numerics: normal`.
        placement: Where tensors lie; says what may be kept between passes.
    """

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        spec: VariantSpec,
        *,
        attention: AttentionChoice = DEFAULT_ATTENTION,
        compiles: bool = False,
    ) -> None:
        """Wrap `transformer`, where it lies, and put attention to a subject into its blocks.

        Args:
            transformer: The base model.
            spec: The variant it serves.
            attention: The backend of passes under `numerics: normal`.
            compiles: Whether blocks run compiled in clips of `numerics: normal`.
        """
        self.transformer = transformer
        self.attention = attention
        self.placement = RESIDENT
        self.spec = spec
        self._clip: ClipMemory | None = None
        self._step: StepMemory | None = None
        self._of_clip, self._of_text, self._of_step = Scope(), Scope(), Scope()
        self._compiler = BlockCompiler(self._blocks) if compiles else None
        for block in self._blocks:
            _set_processor(block.attn1, ReferenceAttention(attention.dispatcher))
            _set_processor(block.attn2, IdentityAttention(attention.dispatcher))
        embedder = transformer.condition_embedder
        reuse_output(transformer.rope, self._of_clip, "rope")
        reuse_output(embedder.text_embedder, self._of_text, "text")
        reuse_output(transformer.patch_embedding, self._of_step, "patches")
        reuse_output(embedder.time_embedder, self._of_step, "time")
        reuse_output(embedder.time_proj, self._of_step, "modulation")

    @property
    def width(self) -> int:
        """D."""
        return self._blocks[0].attn1.inner_dim

    @property
    def blocks(self) -> int:
        """Number of transformer blocks."""
        return len(self._blocks)

    @property
    def _blocks(self) -> Sequence[WanTransformerBlock]:
        return self.transformer.blocks  # pyright: ignore[reportReturnType]

    def attention_for(self, numerics: str) -> AttentionChoice:
        """Return the backend of clips under `numerics`."""
        return STRICT_ATTENTION if numerics == "strict" else self.attention

    def compiles_for(self, numerics: str) -> bool:
        """Return whether clips under `numerics` run compiled; False once compiling failed."""
        works = self._compiler is not None and not self._compiler.broken
        return works and numerics != "strict"

    @contextmanager
    def clip(self, numerics: str, *, laid_over: Hashable = ()) -> Generator[None]:
        """Sample one clip inside the block: what its steps share is kept, and dropped at the end.

        Text tensors handed to `velocity` inside must not be changed in place.

        Args:
            numerics: `strict` computes with PyTorch's own attention, never compiled.
            laid_over: Names what is laid over the transformer: a graph holds its layers and scales.
        """
        if self._clip is not None:
            raise RuntimeError("this denoiser is sampling another clip")
        self._clip = ClipMemory(self.compiles_for(numerics), laid_over)
        self._use_backend(self.attention_for(numerics))
        try:
            yield
        finally:
            self._clip = None
            self._use_backend(self.attention)

    @contextmanager
    def step(self) -> Generator[None]:
        """Predict the branches of one step inside the block, on one and the same latents tensor.

        Inside a clip, what the branches share is kept, and dropped at the end.
        """
        self._step = StepMemory() if self._clip is not None else None
        try:
            yield
        finally:
            self._step = None

    def velocity(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        *,
        text: torch.Tensor,
        adapters: AdapterKV = NO_ADAPTERS,
        branch: str = "",
    ) -> torch.Tensor:
        """Predict the velocity of one branch.

        Args:
            latents: [1, 16, T, h, w], any floating type.
            timestep: [1], 0 to 1000.
            text: Text tokens [1, 512, D_text].
            adapters: The branch's subject.
            branch: The branch's name in the spec, one context of what a cache keeps.

        Returns:
            float32, of the shape of `latents`.
        """
        del branch  # for those who wrap this
        try:
            self._hand_over(latents, timestep, text, adapters)
            output = self._run(latents, timestep, text)
            self._collect(text)
            return output.float()
        finally:
            self._take_back()

    def reference_features(
        self, latent: torch.Tensor, *, text: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Run one pass at timestep 0 without adapters and keep what each self-attention reads.

        It runs eager and with PyTorch's own attention always: its features serve clips of either
        numerics.

        Args:
            latent: [1, 16, 1, h, w], normed, of the reference crop.
            text: Text tokens [1, 512, D_text] of the reference prompt.

        Returns:
            One feature a block, [1, L, D], L = h w / 4, in the type of the pass.
        """
        records: list[torch.Tensor] = []
        installed = [block.attn1.processor for block in self._blocks]
        for block in self._blocks:
            _set_processor(block.attn1, RecordingAttention(records, NATIVE.dispatcher))
            _cross(block).use_backend(NATIVE.dispatcher)
        try:
            self._run(latent, torch.zeros(1, dtype=torch.int64, device=latent.device), text)
        finally:
            for block, processor in zip(self._blocks, installed, strict=True):
                _set_processor(block.attn1, processor)
            self._use_backend(self.attention)
        return tuple(records)

    def _run(
        self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        dtype = self.transformer.dtype
        output = self.transformer(latents.to(dtype), timestep, text.to(dtype), return_dict=False)
        return output[0]

    def _hand_over(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        text: torch.Tensor,
        adapters: AdapterKV,
    ) -> None:
        """Give each processor what it adds, and each module what it may take over."""
        clip, placement = self._clip, self.placement
        identity, reference = adapters.identity, adapters.reference
        texts: list[KeyValue | None] = []
        if clip is not None:
            self._of_clip.values = clip.shapes.setdefault(latents.shape, {})
            if self._step is not None and placement.shares_first_block:
                self._of_step.values = self._step.shared(latents, timestep)
            kept = clip.text(text)
            self._of_text.values, texts = kept.values, kept.blocks
            if clip.compiled:
                identity = clip.for_every_block(identity, self.blocks)
                reference = clip.for_every_block(reference, self.blocks)
        for number, block in enumerate(self._blocks):
            _cross(block).subject = identity.get(number)
            _cross(block).text = texts[number] if texts else None
            _cross(block).keeps_text = clip is not None and placement.keeps_text_kv
            _self(block).subject = reference.get(number)
        if self._of_step.values is not None:
            _self(self._blocks[0]).shared = self._of_step
        if self._compiler is not None and clip is not None and clip.compiled:
            shapes = (latents.shape, text.shape, _shape(identity), _shape(reference))
            dtype = self.transformer.dtype
            self._compiler.start((*shapes, placement.keeps_text_kv, dtype, clip.laid_over))

    def _collect(self, text: torch.Tensor) -> None:
        """Keep the text's keys and values that this pass made."""
        if self._clip is not None and self.placement.keeps_text_kv:
            self._clip.text(text).blocks = [_cross(block).text for block in self._blocks]

    def _take_back(self) -> None:
        """Leave nothing of a pass behind, however it ended."""
        for scope in (self._of_clip, self._of_text, self._of_step):
            scope.values = None
        for block in self._blocks:
            _cross(block).subject = _cross(block).text = _self(block).subject = None
            _cross(block).keeps_text = False
        _self(self._blocks[0]).shared = None
        if self._compiler is not None:
            self._compiler.stop()

    def _use_backend(self, attention: AttentionChoice) -> None:
        for block in self._blocks:
            _self(block).use_backend(attention.dispatcher)
            _cross(block).use_backend(attention.dispatcher)


def facts_on(device: torch.device, precision: str) -> DeviceFacts:
    """Return what decides which attention backends can run, now that torch is here.

    An installed package counts only if diffusers could import it: one built for another torch
    cannot be.

    Args:
        device: Where the engine computes.
        precision: Type of the pass: float32, bfloat16 or float16.
    """
    works = {
        FLASH.package: attention_dispatch._CAN_USE_FLASH_ATTN,
        FLASH_3.package: attention_dispatch._CAN_USE_FLASH_ATTN_3,
    }
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    packages = frozenset(package for package, usable in works.items() if usable)
    return DeviceFacts(str(device), capability, packages, precision)


def attention_on(device: torch.device, asked: str, precision: str) -> AttentionChoice:
    """Return the attention backend of an engine, and log which and why.

    Args:
        device: Where the engine computes.
        asked: `auto` or a name of `models.backends`.
        precision: Type of the pass: float32, bfloat16 or float16.

    Raises:
        RowError: WEIGHTS, if the one asked for cannot run there; it says what to install.
    """
    try:
        chosen = choose_attention(asked, facts_on(device, precision))
    except BackendError as error:
        raise RowError(ErrorCode.WEIGHTS, str(error)) from None
    logger.info("attention: %s; %s", chosen, chosen.reason)
    return chosen


def build_denoiser(
    base: Path,
    spec: VariantSpec,
    *,
    attention: AttentionChoice = DEFAULT_ATTENTION,
    compiles: bool = False,
) -> tuple[WanDenoiser, SafetensorsSource]:
    """Build the transformer of a base model in diffusers layout, its tensors still in their files.

    Args:
        base: The base model's folder.
        spec: Says which blocks see a subject.
        attention: The attention backend under `numerics: normal`.
        compiles: Whether blocks run compiled under `numerics: normal`.

    Returns:
        The denoiser, and the tensors that `models.blocks` places.

    Raises:
        RowError: WEIGHTS, if a file is missing, damaged or does not fit.
    """
    transformer, source = build_component(WanTransformer3DModel, base / "transformer")
    return WanDenoiser(transformer, spec, attention=attention, compiles=compiles), source


def _cross(block: WanTransformerBlock) -> IdentityAttention:
    return block.attn2.processor  # pyright: ignore[reportReturnType]


def _self(block: WanTransformerBlock) -> ReferenceAttention:
    return block.attn1.processor  # pyright: ignore[reportReturnType]


def _shape(adapted: Mapping[int, KeyValue]) -> torch.Size | None:
    some = next(iter(adapted.values()), None)
    return None if some is None else some.key.shape


def _set_processor(attention: WanAttention, processor: object) -> None:
    # diffusers types processors as a closed union of its own.
    attention.set_processor(processor)  # pyright: ignore[reportArgumentType]
