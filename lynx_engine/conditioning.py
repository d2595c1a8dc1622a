"""What a job is conditioned on: text tokens, the subject's tokens and features, keys and values.

Each is made once and kept for the jobs that follow: a string, a face, a (subject, seed).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from lynx_engine.digest import digest_bytes
from lynx_engine.identity.align import REFERENCE_CROP_PX
from lynx_engine.identity.embed import SubjectFace, embed_face
from lynx_engine.models.attention import AdapterKV
from lynx_engine.models.device import memory_errors
from lynx_engine.models.loras import without_loras
from lynx_engine.models.memory import SizedCache, bytes_of
from lynx_engine.models.text import REFERENCE_PROMPT, pad_text

if TYPE_CHECKING:
    from lynx_engine.jobs import RenderJob
    from lynx_engine.models.subject import SubjectModels
    from lynx_engine.parts import EngineParts, WorkCounters
    from lynx_engine.variants.spec import VariantSpec

# At 14B a prompt is some 1 MB (its real tokens only) and a subject's features 105 MB.
_TEXT_CACHE_BYTES = 1 << 30
_REFERENCE_CACHE_BYTES = 4 << 30
_FACE_CACHE_BYTES = 64 << 20


class Conditioning:
    """Makes the conditions of the jobs of one engine."""

    def __init__(self, spec: VariantSpec, parts: EngineParts, counters: WorkCounters) -> None:
        """Start with nothing kept.

        Args:
            spec: The variant.
            parts: Its networks.
            counters: Told of every run of a network.
        """
        self._spec = spec
        self._counters = counters
        self._device = parts.device
        self._denoiser = parts.denoiser
        self._text = parts.text
        self._vae = parts.vae
        self._subject = parts.subject
        self._placer = parts.placer
        self._texts = SizedCache[torch.Tensor](_TEXT_CACHE_BYTES, bytes_of)
        self._references = SizedCache[tuple[torch.Tensor, ...]](
            _REFERENCE_CACHE_BYTES, lambda features: sum(map(bytes_of, features))
        )
        self._faces = SizedCache[SubjectFace](
            _FACE_CACHE_BYTES, lambda face: face.reference_crop.nbytes
        )

    def embed_face(self, photo: npt.NDArray[np.uint8], landmarks: npt.ArrayLike) -> SubjectFace:
        """Recognise one face; the same photo and landmarks are recognised once.

        Args:
            photo: RGB uint8 [H, W, 3].
            landmarks: [5, 2], (x, y) in pixels: eyes, nose, mouth corners, left to right.

        Raises:
            RowError: OUT_OF_MEMORY.
            ValueError: If the variant has no identity.
        """
        subject = self._subject_models()
        points = np.ascontiguousarray(landmarks, dtype=np.float32)
        key = (photo.shape, digest_bytes(np.ascontiguousarray(photo).data), points.tobytes())

        def make() -> SubjectFace:
            self._counters.face_runs += 1
            stays = not self._placer.placement.others_wait
            with (
                memory_errors("the recogniser did not fit"),
                subject.recognising(stays=stays) as encoder,
            ):
                return embed_face(photo, points, encoder)

        return self._faces.get_or_make(key, make)

    def free_caches(self) -> None:
        """Forget the texts, reference features and faces of earlier jobs."""
        for cache in (self._texts, self._references, self._faces):
            cache.clear()

    def encode_text(self, prompt: str) -> torch.Tensor:
        """Return text tokens [1, 512, D_text] of a prompt; each string is encoded once."""
        return self.encode_texts((prompt,))[0]

    @torch.inference_mode()
    def encode_texts(self, prompts: Sequence[str]) -> list[torch.Tensor]:
        """Return text tokens [1, 512, D_text] of each prompt, from one pass of the weights.

        The tokens of a prompt are the same whichever others it is encoded with.
        """

        def make(missing: Sequence[int]) -> list[torch.Tensor]:
            made = self._text.encode([prompts[n] for n in missing])
            self._counters.text_encodes += len(made)
            return [tokens.cpu() for tokens in made]

        keys = [(prompt, _is_strict()) for prompt in prompts]
        found = self._texts.get_or_make_all(keys, make)
        return [pad_text(tokens).to(self._device) for tokens in found]

    @torch.inference_mode()
    def identity_tokens(self, face: SubjectFace | None) -> torch.Tensor:
        """Return identity tokens [1, 16, D_in]; None stands for the zero embedding."""
        subject = self._subject_models()
        if face is None:
            embedding = torch.zeros(1, subject.resampler.embedding_width)
        else:
            # Copied: an array from another process may be read-only, which torch warns of.
            embedding = torch.tensor(face.embedding)[None]
        return subject.identity_tokens(embedding)

    @torch.inference_mode()
    def reference_features(
        self, face: SubjectFace | None, *, seed: int
    ) -> tuple[torch.Tensor, ...]:
        """Return one feature a block, [1, 256, D]; None stands for the mid-grey picture.

        The picture's latent is drawn with `seed` + 1. Each (subject, seed) and each seed without a
        subject is run once and kept in host memory.
        """

        def make() -> tuple[torch.Tensor, ...]:
            self._counters.reference_passes += 1
            if face is None:
                latent = self._vae.encode_grey(REFERENCE_CROP_PX, seed=seed + 1)
            else:
                latent = self._vae.encode_still(face.reference_crop, seed=seed + 1)
            text = self.encode_text(REFERENCE_PROMPT)
            # Its adapter has learned the base model's; and jobs without the LoRA share them.
            with without_loras(self._denoiser.transformer):
                features = self._denoiser.reference_features(latent, text=text)
            return tuple(feature.cpu() for feature in features)

        return self._references.get_or_make((face.digest if face else "", seed, _is_strict()), make)

    @torch.inference_mode()
    def adapters(self, job: RenderJob, face: SubjectFace | None) -> AdapterKV:
        """Return a branch's adapter keys and values; None stands for no subject."""
        self._counters.kv_sets += 1
        features: tuple[torch.Tensor, ...] = ()
        if self._spec.uses_reference and job.scale_reference != 0:
            features = self.reference_features(face, seed=job.seed)
        return self._subject_models().project(
            self.identity_tokens(face),
            features,
            self._denoiser,
            scale_identity=job.scale_identity,
            scale_reference=job.scale_reference,
        )

    def _subject_models(self) -> SubjectModels:
        if self._subject is None:
            raise ValueError(f"{self._spec.name} renders without a subject")
        return self._subject


def _is_strict() -> bool:
    """Return whether a strict job is rendering: what other kernels made is not for its clip."""
    return torch.are_deterministic_algorithms_enabled()
