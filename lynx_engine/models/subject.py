"""The parts of a variant that know the subject: recogniser, resampler and adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.folders import ModelsPlace
from lynx_engine.models.adapters import (
    IdentityAdapter,
    ReferenceAdapter,
    build_identity_adapter,
    build_reference_adapter,
)
from lynx_engine.models.arcface import FaceEncoder, build_face_encoder
from lynx_engine.models.attention import AdapterKV
from lynx_engine.models.checkpoint import read_tensors
from lynx_engine.models.resampler import Resampler, build_resampler

if TYPE_CHECKING:
    from lynx_engine.models.wan import WanDenoiser
    from lynx_engine.variants.spec import VariantSpec


@dataclass(frozen=True, slots=True, eq=False)
class SubjectModels:
    """What a variant with identity adds to its base model.

    Attributes:
        face_encoder: identity crop -> identity embedding; float32.
        resampler: identity embedding -> identity tokens.
        identity: identity tokens -> keys and values of cross-attention.
        reference: reference features -> keys and values of self-attention; None in variants
            whose spec has no reference adapter.
    """

    face_encoder: FaceEncoder
    resampler: Resampler
    identity: IdentityAdapter
    reference: ReferenceAdapter | None

    def identity_tokens(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return identity tokens [1, 16, D_in] of an embedding [1, 512] of any type and place."""
        weight = self.resampler.proj_in.weight
        return self.resampler(embedding.to(weight.device, weight.dtype))

    def offload(self) -> None:
        """Let recogniser and resampler wait in host memory, where the adapters always are."""
        self.face_encoder.to("cpu")
        self.resampler.to("cpu")

    def project(
        self,
        tokens: torch.Tensor,
        features: Sequence[torch.Tensor],
        denoiser: WanDenoiser,
        *,
        scale_identity: float,
        scale_reference: float,
    ) -> AdapterKV:
        """Return one branch's keys and values.

        Args:
            tokens: Identity tokens [1, 16, D_in].
            features: Reference features, one a block, [1, L, D]; ignored without that adapter.
            denoiser: The base model they are for.
            scale_identity: Factor on the identity attention; 0 leaves it out.
            scale_reference: Factor on the reference attention; 0 leaves it out.
        """
        transformer = denoiser.transformer
        reference = {}
        if self.reference is not None and scale_reference != 0:
            placed = [feature.to(tokens.device, tokens.dtype) for feature in features]
            reference = self.reference.project(placed, transformer, scale=scale_reference)
        return AdapterKV(
            identity=self.identity.project(tokens, transformer, scale=scale_identity),
            reference=reference,
        )


def load_subject_models(
    spec: VariantSpec,
    weights_dir: ModelsPlace,
    denoiser: WanDenoiser,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> SubjectModels | None:
    """Load recogniser, resampler and adapters; None for a variant without identity.

    Args:
        spec: The variant.
        weights_dir: Folder of the public layout.
        denoiser: The base model the adapters sit in.
        device: Where tokens are made; the adapters' weights stay in host memory.
        dtype: Type of resampler and adapters. The recogniser is float32 always.

    Raises:
        RowError: WEIGHTS, if a file is missing, damaged or does not fit.
    """
    if spec.identity is None:
        return None
    folder = weights_dir / spec.adapters
    blocks, width = denoiser.blocks, denoiser.width

    def read(path: Path) -> dict[str, torch.Tensor]:
        return read_tensors(path, models_dir=weights_dir, dtype=dtype)

    face_path = weights_dir / spec.face_encoder
    resampler_path = folder / "resampler.safetensors"
    ip_path, ref_path = folder / "ip_layers.safetensors", folder / "ref_layers.safetensors"
    resampler = build_resampler(read(resampler_path), resampler_path)
    identity = build_identity_adapter(
        read(ip_path), spec.identity, ip_path, blocks=blocks, width=width
    )
    _check_widths(
        "identity tokens", (ip_path, identity.token_width), (resampler_path, resampler.out)
    )
    reference = None
    if spec.uses_reference:
        reference = build_reference_adapter(read(ref_path), ref_path, blocks=blocks, width=width)
    face_tensors = read_tensors(face_path, models_dir=weights_dir, dtype=torch.float32)
    face_encoder = build_face_encoder(face_tensors, face_path)
    _check_widths(
        "identity embeddings",
        (resampler_path, resampler.embedding_width),
        (face_path, face_encoder.embedding_width),
    )
    return SubjectModels(face_encoder.to(device), resampler.to(device), identity, reference)


def _check_widths(what: str, reader: tuple[Path, int], maker: tuple[Path, int]) -> None:
    """Accept a (file, width) that reads what another file makes.

    Raises:
        RowError: WEIGHTS, naming both files.
    """
    (path, reads), (other, makes) = reader, maker
    if reads != makes:
        raise RowError(
            ErrorCode.WEIGHTS,
            f"{path}: its {what} are {reads} wide, those of {other} {makes}. "
            "The two files belong to different variants; download both again.",
        )
