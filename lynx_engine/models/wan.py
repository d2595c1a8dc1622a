"""The base video model, stock from diffusers, with room for a subject in its attention.

Source: Wan2.1, arXiv 2503.20314. Weights load from the public diffusers layout, never from the
network, straight into the type of the pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanAttnProcessor,
    WanTransformer3DModel,
    WanTransformerBlock,
)

from lynx_engine.models.attention import (
    NO_ADAPTERS,
    ActiveBranch,
    AdapterKV,
    IdentityAttention,
    RecordingAttention,
    ReferenceAttention,
)
from lynx_engine.models.components import build_component
from lynx_engine.models.tensor_files import SafetensorsSource

if TYPE_CHECKING:
    from lynx_engine.variants.spec import VariantSpec

BACKEND = AttentionBackendName.NATIVE
"""PyTorch's own attention: it is everywhere, and picks the fastest kernel of its device."""


class WanDenoiser:
    """Predicts velocities, with or without a subject."""

    def __init__(self, transformer: WanTransformer3DModel, spec: VariantSpec) -> None:
        """Wrap `transformer`, where it lies, and put the attention `spec` needs into its blocks."""
        self.transformer = transformer
        self.backend = f"torch SDPA ({BACKEND.value})"
        self._active = ActiveBranch()
        for number, block in enumerate(self._blocks):
            self_attention = cross_attention = None
            if spec.uses_reference:
                self_attention = ReferenceAttention(number, self._active, BACKEND)
            if spec.identity is not None and number % spec.identity.block_stride == 0:
                cross_attention = IdentityAttention(number, self._active, BACKEND)
            _set_processor(block.attn1, self_attention or _stock_processor())
            _set_processor(block.attn2, cross_attention or _stock_processor())

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

    def velocity(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        *,
        text: torch.Tensor,
        adapters: AdapterKV = NO_ADAPTERS,
    ) -> torch.Tensor:
        """Predict the velocity of one branch.

        Args:
            latents: [1, 16, T, h, w], any floating type.
            timestep: [1], 0 to 1000.
            text: Text tokens [1, 512, D_text].
            adapters: The branch's subject.

        Returns:
            float32, of the shape of `latents`.
        """
        self._active.adapters = adapters
        try:
            return self._run(latents, timestep, text).float()
        finally:
            self._active.adapters = NO_ADAPTERS

    def reference_features(
        self, latent: torch.Tensor, *, text: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Run one pass at timestep 0 without adapters and keep what each self-attention reads.

        Args:
            latent: [1, 16, 1, h, w], normed, of the reference crop.
            text: Text tokens [1, 512, D_text] of the reference prompt.

        Returns:
            One feature a block, [1, L, D], L = h w / 4, in the type of the pass.
        """
        records: list[torch.Tensor] = []
        installed = [block.attn1.processor for block in self._blocks]
        for block in self._blocks:
            _set_processor(block.attn1, RecordingAttention(records, BACKEND))
        try:
            self._run(latent, torch.zeros(1, dtype=torch.int64, device=latent.device), text)
        finally:
            for block, processor in zip(self._blocks, installed, strict=True):
                _set_processor(block.attn1, processor)
        return tuple(records)

    def _run(
        self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        dtype = self.transformer.dtype
        output = self.transformer(latents.to(dtype), timestep, text.to(dtype), return_dict=False)
        return output[0]


def build_denoiser(base: Path, spec: VariantSpec) -> tuple[WanDenoiser, SafetensorsSource]:
    """Build the transformer of a base model in diffusers layout, its tensors still in their files.

    Args:
        base: The base model's folder.
        spec: Says which blocks see a subject.

    Returns:
        The denoiser, and the tensors that `models.blocks` places.

    Raises:
        RowError: WEIGHTS, if a file is missing, damaged or does not fit.
    """
    transformer, source = build_component(WanTransformer3DModel, base / "transformer")
    return WanDenoiser(transformer, spec), source


def _stock_processor() -> WanAttnProcessor:
    processor = WanAttnProcessor()
    # Set here: diffusers' own setter changes the default of the whole process.
    processor._attention_backend = BACKEND  # pyright: ignore[reportAttributeAccessIssue]
    return processor


def _set_processor(attention: WanAttention, processor: object) -> None:
    # diffusers types processors as a closed union of its own.
    attention.set_processor(processor)  # pyright: ignore[reportArgumentType]
