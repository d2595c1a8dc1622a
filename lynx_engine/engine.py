"""Renders one job at a time with a model that stays loaded.

It turns a complete `RenderJob` and a subject's face into frames. It knows no manifest, clip file,
campaign or other process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from lynx_engine.capacity.placement import RESIDENT, Placement
from lynx_engine.diffusion.guidance import Guidance, IdentityGuidance, TextGuidance
from lynx_engine.diffusion.latents import draw_noise, latent_shape
from lynx_engine.diffusion.sampler import Branch, sample
from lynx_engine.diffusion.schedule import start_schedule
from lynx_engine.digest import digest_bytes
from lynx_engine.identity.align import REFERENCE_CROP_PX
from lynx_engine.identity.embed import SubjectFace, embed_face
from lynx_engine.jobs import Conditions
from lynx_engine.models.attention import NO_ADAPTERS, AdapterKV
from lynx_engine.models.device import (
    StageClock,
    memory_errors,
    peak_memory_bytes,
    reproducible,
)
from lynx_engine.models.memory import MemoryLadder, SizedCache, bytes_of
from lynx_engine.models.text import REFERENCE_PROMPT, pad_text
from lynx_engine.models.tiers import (
    DECODING_RUNGS,
    FREE_CACHES,
    SAMPLING_RUNGS,
    TILED_DECODING_RUNGS,
    choose_placement,
)
from lynx_engine.models.vae import checked_frames
from lynx_engine.parts import EngineParts, WorkCounters, load_parts
from lynx_engine.rendering import OnStage, Rendering

if TYPE_CHECKING:
    from lynx_engine.jobs import RenderJob
    from lynx_engine.models.subject import SubjectModels
    from lynx_engine.variants.spec import VariantSpec

# At 14B a prompt is some 1 MB (its real tokens only) and a subject's features 105 MB.
_TEXT_CACHE_BYTES = 1 << 30
_REFERENCE_CACHE_BYTES = 4 << 30
_FACE_CACHE_BYTES = 64 << 20


class RenderEngine:
    """One loaded variant on one device. Two engines in a process share nothing."""

    def __init__(self, spec: VariantSpec, parts: EngineParts) -> None:
        """Assemble loaded parts; `load` is the usual way in."""
        self.spec = spec
        self.device = parts.device
        self.counters = WorkCounters(model_loads=1)
        self.denoiser = parts.denoiser
        self._scheduler_config = parts.scheduler_config
        self._text = parts.text
        self._vae = parts.vae
        self.subject = parts.subject
        self._placer = parts.placer
        self._decode_precision = ""
        self._texts = SizedCache[torch.Tensor](_TEXT_CACHE_BYTES, bytes_of)
        self._references = SizedCache[tuple[torch.Tensor, ...]](
            _REFERENCE_CACHE_BYTES, lambda features: sum(map(bytes_of, features))
        )
        self._faces = SizedCache[SubjectFace](
            _FACE_CACHE_BYTES, lambda face: face.reference_crop.nbytes
        )

    @classmethod
    def load(
        cls,
        spec: VariantSpec,
        *,
        weights_dir: Path,
        device: str,
        precision: str,
        attention: str = "auto",
        compile_blocks: str = "auto",
        cache_dir: Path | None = None,
        placement: Placement | None = RESIDENT,
    ) -> RenderEngine:
        """Build a variant's networks and place their weights, never from the network.

        Args:
            spec: The variant.
            weights_dir: Folder of the public layout, as `ensure_weights` returns it.
            device: `cpu`, `cuda:0`, ...
            precision: float32, bfloat16 or float16; autoencoder and recogniser are float32 always.
            attention: Attention backend, `auto` or a name of `models.backends`.
            compile_blocks: Whether the transformer's blocks are compiled: auto, on or off.
            cache_dir: Where copies of streamed blocks may lie; None makes none.
            placement: Where the weights lie until a job is rendered; one that does not fit is
                followed by those below it. None leaves every weight in its file until a job comes.

        Raises:
            RowError: WEIGHTS, if a file is missing, damaged or does not fit, or if `attention`
                cannot run here; OUT_OF_MEMORY.
        """
        parts = load_parts(
            spec,
            weights_dir=weights_dir,
            device=device,
            precision=precision,
            attention=attention,
            compile_blocks=compile_blocks,
            cache_dir=cache_dir,
        )
        engine = cls(spec, parts)
        if placement is not None:
            engine.place(placement)
        return engine

    def place(self, placement: Placement) -> None:
        """Have the weights lie as `placement` says, or as one below it that fits.

        Raises:
            RowError: WEIGHTS, if a file is gone or damaged; OUT_OF_MEMORY, if none fits.
        """
        ladder = MemoryLadder(
            partial(self._take_rung, job_size=0),
            what=f"{self.spec.name} did not load",
            device=self.device,
            taken=self._placer.start(placement, job_size=0, strict=False),
        )
        ladder.fit(self._placer.apply, rungs=SAMPLING_RUNGS)

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
            self.counters.face_runs += 1
            stays = not self._placer.placement.others_wait
            with (
                memory_errors("the recogniser did not fit"),
                subject.recognising(stays=stays) as encoder,
            ):
                return embed_face(photo, points, encoder)

        return self._faces.get_or_make(key, make)

    def render(
        self, job: RenderJob, face: SubjectFace | None, *, on_stage: OnStage | None = None
    ) -> Rendering:
        """Render one job; one that does not fit is tried again down the memory ladder.

        Frames, size, steps and precision stay as asked for. What is sampled already is kept when
        only the decode did not fit.

        Args:
            job: The request; its variant is this engine's.
            face: The subject, or None for a variant without identity.
            on_stage: Told of progress; a stage that is tried again begins at 0 again.

        Raises:
            RowError: BAD_FRAMES, if the model produced NaN or a picture without content;
                OUT_OF_MEMORY, if no rung of the ladder was low enough.
            ValueError: If the job is another variant's, or a subject is missing.
        """
        if job.variant != self.spec.name or (face is None) == self.spec.uses_subject:
            raise ValueError(f"job {job.job_id} is not one of {self.spec.name} with its subject")
        clock = StageClock(on_stage, self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        strict, size = job.numerics == "strict", math.prod(job.shape)
        chosen = choose_placement(job, blocks=self.denoiser.blocks)
        ladder = MemoryLadder(
            partial(self._take_rung, job_size=size),
            what=f"{job.frames} frames of {job.size} did not fit",
            device=self.device,
            taken=self._placer.start(chosen, job_size=size, strict=strict),
        )

        def decode() -> tuple[npt.NDArray[np.uint8], str]:
            with clock.stage("decode"):
                return self._decode_row(job, latents)

        with reproducible(job.numerics):
            latents = ladder.fit(
                partial(self._make_latents, job, face, clock), rungs=SAMPLING_RUNGS
            )
            frames, precision = ladder.fit(
                decode, rungs=DECODING_RUNGS if strict else TILED_DECODING_RUNGS
            )
        placement, attention = self._placer.placement, self.denoiser.attention_for(job.numerics)
        return Rendering(
            frames=frames,
            stages_s=clock.stages_s,
            peak_memory_bytes=peak_memory_bytes(self.device),
            conditions=Conditions(
                attention_backend=str(attention),
                attention_reason=attention.reason,
                compiled=self.denoiser.compiles_for(job.numerics),
                memory_tier=placement.tier,
                streamed_blocks=placement.streamed_blocks,
                memory_rungs=ladder.taken,
                vae_precision=precision,
                vae_tiled=placement.vae_tiled,
            ),
        )

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
            self.counters.text_encodes += len(made)
            return [tokens.cpu() for tokens in made]

        found = self._texts.get_or_make_all(prompts, make)
        return [pad_text(tokens).to(self.device) for tokens in found]

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
            self.counters.reference_passes += 1
            if face is None:
                latent = self._vae.encode_grey(REFERENCE_CROP_PX, seed=seed + 1)
            else:
                latent = self._vae.encode_still(face.reference_crop, seed=seed + 1)
            text = self.encode_text(REFERENCE_PROMPT)
            features = self.denoiser.reference_features(latent, text=text)
            return tuple(feature.cpu() for feature in features)

        return self._references.get_or_make((face.digest if face else "", seed), make)

    @torch.inference_mode()
    def adapters(self, job: RenderJob, face: SubjectFace | None) -> AdapterKV:
        """Return a branch's adapter keys and values; None stands for no subject."""
        self.counters.kv_sets += 1
        features: tuple[torch.Tensor, ...] = ()
        if self.spec.uses_reference and job.scale_reference != 0:
            features = self.reference_features(face, seed=job.seed)
        return self._subject_models().project(
            self.identity_tokens(face),
            features,
            self.denoiser,
            scale_identity=job.scale_identity,
            scale_reference=job.scale_reference,
        )

    def branches(self, job: RenderJob, face: SubjectFace | None) -> tuple[Branch, ...]:
        """Return the predictions of one step, in the order of the spec.

        The subject's keys and values are made here, once a job: one set with the subject, one
        without.
        """
        prompt, negative = self.encode_text(job.prompt), self.encode_text(job.negative_prompt)
        unconditional = subject = NO_ADAPTERS
        if self.spec.uses_subject:
            unconditional, subject = self.adapters(job, None), self.adapters(job, face)
        inputs = {
            "unconditional": (negative, unconditional),
            "identity": (negative, subject),
            "full": (prompt, subject),
            "text": (prompt, NO_ADAPTERS),
        }

        def branch(name: str) -> Branch:
            text, adapters = inputs[name]
            return partial(self.denoiser.velocity, text=text, adapters=adapters, branch=name)

        return tuple(branch(name) for name in self.spec.branches)

    @torch.inference_mode()
    def sample(
        self,
        job: RenderJob,
        branches: tuple[Branch, ...],
        *,
        on_step: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Return the clip's latents, float32 [1, 16, T, h, w]."""
        shape = latent_shape(job.frames, job.size, frame_stride=self.spec.frame_stride)
        with self.denoiser.clip(job.numerics):
            return sample(
                draw_noise(shape, seed=job.seed).to(self.device),
                branches,
                schedule=start_schedule(self._scheduler_config, steps=job.steps),
                guidance=guidance_of(job, self.spec),
                one_step=self.denoiser.step,
                on_step=on_step,
            )

    @torch.inference_mode()
    def decode(
        self, latents: torch.Tensor, *, tiled: bool = False, precision: str = "float32"
    ) -> npt.NDArray[np.uint8]:
        """Return frames, RGB uint8 [F, H, W, 3].

        Args:
            latents: [1, 16, T, h, w].
            tiled: Decode in tiles, which saves memory and changes numbers.
            precision: One of `models.vae.DECODE_PRECISIONS`.

        Raises:
            RowError: BAD_FRAMES, if they hold NaN or no content.
        """
        self.counters.vae_decodes += 1
        return checked_frames(self._vae.decode(latents, tiled=tiled, precision=precision))

    @torch.inference_mode()
    def choose_decode_precision(self, latents: torch.Tensor, *, tiled: bool = False) -> str:
        """Return the fastest precision that decodes well; the first latents asked for decide."""
        if not self._decode_precision:
            self._decode_precision = self._vae.fastest_precision(latents, tiled=tiled)
        return self._decode_precision

    def _make_latents(
        self, job: RenderJob, face: SubjectFace | None, clock: StageClock
    ) -> torch.Tensor:
        """Return the clip's latents; all else that was made for them is dropped."""
        if not self._placer.is_applied:
            with clock.stage("load"):
                self._placer.apply()
        self._placer.apply()
        texts = [job.prompt, job.negative_prompt]
        if self.spec.uses_reference and job.scale_reference != 0:
            texts.append(REFERENCE_PROMPT)
        with clock.stage("text"):
            self.encode_texts(texts)
        with clock.stage("subject"):
            branches = self.branches(job, face)
        with clock.stage("denoise"):
            return self.sample(job, branches, on_step=partial(clock.tell, "denoise"))

    def _decode_row(
        self, job: RenderJob, latents: torch.Tensor
    ) -> tuple[npt.NDArray[np.uint8], str]:
        """Return a row's frames and the precision they were decoded in."""
        self._placer.make_room_to_decode()
        tiled, precision = self._placer.placement.vae_tiled, "float32"
        if self.device.type == "cuda" and job.numerics != "strict":
            precision = self.choose_decode_precision(latents, tiled=tiled)
        return self.decode(latents, tiled=tiled, precision=precision), precision

    def _take_rung(self, rung: str, *, job_size: int) -> bool:
        if rung == FREE_CACHES:
            self.free_caches()
            return True
        return self._placer.step_down(rung, job_size=job_size)

    def _subject_models(self) -> SubjectModels:
        if self.subject is None:
            raise ValueError(f"{self.spec.name} renders without a subject")
        return self.subject


def guidance_of(job: RenderJob, spec: VariantSpec) -> Guidance:
    """Return the guidance over the spec's branches, at the job's scales."""
    if "identity" in spec.branches:
        return IdentityGuidance(text=job.guidance_text, identity=job.guidance_identity)
    return TextGuidance(text=job.guidance_text)
