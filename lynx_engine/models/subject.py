"""The parts of a variant that know the subject: recogniser, resampler and adapters."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from lynx_engine.models.device import tensor_float32
from lynx_engine.models.resampler import Resampler, build_resampler
from lynx_engine.models.residence import Residence
from lynx_engine.models.tensor_files import TensorSource, open_file, open_pickle, outline

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
        residences: Place the recogniser and the resampler, in this order; the adapters always
            wait in their files.
    """

    face_encoder: FaceEncoder
    resampler: Resampler
    identity: IdentityAdapter
    reference: ReferenceAdapter | None
    residences: tuple[Residence, Residence]

    @contextmanager
    def recognising(self, *, stays: bool = False) -> Generator[FaceEncoder]:
        """Have the recogniser on the device, exact: what a face is must not depend on a device.

        Args:
            stays: Whether it waits for the next photo there.
        """
        if stays:
            self.residences[0].stay()
        with self.residences[0].visiting(), tensor_float32(allowed=False):
            yield self.face_encoder

    def identity_tokens(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return identity tokens [1, 16, D_in] of an embedding [1, 512] of any type and place."""
        with self.residences[1].visiting():
            weight = self.resampler.proj_in.weight
            return self.resampler(embedding.to(weight.device, weight.dtype))

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
    """Build recogniser, resampler and adapters, whose tensors wait in their files.

    Returns None for a variant without identity.

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
    resampler_file = open_file(folder / "resampler.safetensors")
    resampler = build_resampler(outline(resampler_file), resampler_file.path)
    ip_file = open_file(folder / "ip_layers.safetensors")
    identity = build_identity_adapter(
        ip_file.views(), spec.identity, ip_file.path, blocks=blocks, width=width
    )
    _check_widths(
        "identity tokens",
        (ip_file.path, identity.token_width),
        (resampler_file.path, resampler.out),
    )
    reference = None
    if spec.uses_reference:
        ref_file = open_file(folder / "ref_layers.safetensors")
        reference = build_reference_adapter(
            ref_file.views(), ref_file.path, blocks=blocks, width=width
        )
    face_file = _open_face_file(weights_dir / spec.face_encoder, weights_dir)
    face_encoder = build_face_encoder(outline(face_file), face_file.path)
    _check_widths(
        "identity embeddings",
        (resampler_file.path, resampler.embedding_width),
        (face_file.path, face_encoder.embedding_width),
    )
    residences = (
        Residence(face_encoder, face_file, device=device, dtypes=lambda _: torch.float32),
        Residence(resampler, resampler_file, device=device, dtypes=lambda _: dtype),
    )
    return SubjectModels(face_encoder, resampler, identity, reference, residences)


def _open_face_file(path: Path, models_dir: ModelsPlace) -> TensorSource:
    """Find the recogniser's tensors, without the counters of training that some exports hold."""
    source = (
        open_file(path)
        if path.suffix == ".safetensors"
        else open_pickle(path, models_dir=models_dir)
    )
    kept = {n: s for n, s in source.shapes.items() if not n.endswith("num_batches_tracked")}
    return replace(source, shapes=kept)


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
