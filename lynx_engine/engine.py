"""Renders one job at a time with a model that stays loaded.

It turns a complete `RenderJob` and a subject's face into frames. It knows no manifest, clip file,
campaign or other process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from lynx_engine.diffusion.guidance import Guidance, IdentityGuidance, TextGuidance
from lynx_engine.diffusion.latents import draw_noise, latent_shape
from lynx_engine.diffusion.sampler import Branch, sample
from lynx_engine.diffusion.schedule import start_schedule
from lynx_engine.digest import digest_bytes
from lynx_engine.identity.align import REFERENCE_CROP_PX
from lynx_engine.identity.embed import SubjectFace, embed_face
from lynx_engine.jobs import Conditions
from lynx_engine.models.attention import NO_ADAPTERS, AdapterKV
from lynx_engine.models.checkpoint import read_config, weights_error
from lynx_engine.models.device import (
    PRECISIONS,
    StageClock,
    memory_errors,
    peak_memory_bytes,
    reproducible,
    visiting,
)
from lynx_engine.models.memory import (
    BIT_NEUTRAL_RUNGS,
    FREE_CACHES,
    OFFLOAD,
    RUNGS,
    VAE_TILING,
    MemoryLadder,
    SizedCache,
    bytes_of,
)
from lynx_engine.models.subject import SubjectModels, load_subject_models
from lynx_engine.models.text import REFERENCE_PROMPT, TextEncoder, load_text_encoder, pad_text
from lynx_engine.models.vae import VideoAutoencoder, checked_frames, load_vae
from lynx_engine.models.wan import WanDenoiser, load_denoiser
from lynx_engine.rendering import OnStage, Rendering

if TYPE_CHECKING:
    from lynx_engine.folders import ModelsPlace
    from lynx_engine.jobs import RenderJob
    from lynx_engine.variants.spec import VariantSpec

# At 14B a prompt is some 1 MB (its real tokens only) and a subject's features 105 MB.
_TEXT_CACHE_BYTES = 1 << 30
_REFERENCE_CACHE_BYTES = 4 << 30
_FACE_CACHE_BYTES = 64 << 20
# What the released schedule is built on; diffusers' own defaults describe another model's.
_FLOW_SCHEDULE: Mapping[str, object] = {
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
}


@dataclass(slots=True)
class WorkCounters:
    """How often the engine did what it should not do twice; counted since it was loaded."""

    model_loads: int = 0
    text_encodes: int = 0
    face_runs: int = 0
    reference_passes: int = 0
    kv_sets: int = 0
    vae_decodes: int = 0


class RenderEngine:
    """One loaded variant on one device. Two engines in a process share nothing."""

    def __init__(
        self,
        spec: VariantSpec,
        *,
        scheduler_config: dict[str, object],
        text: TextEncoder,
        denoiser: WanDenoiser,
        vae: VideoAutoencoder,
        subject: SubjectModels | None,
        device: torch.device,
    ) -> None:
        """Assemble loaded parts; `load` is the usual way in."""
        self.spec = spec
        self.device = device
        self.counters = WorkCounters(model_loads=1)
        self.denoiser = denoiser
        self._scheduler_config = scheduler_config
        self._text = text
        self._vae = vae
        self.subject = subject
        self._offloaded = False
        self._texts = SizedCache[torch.Tensor](_TEXT_CACHE_BYTES, bytes_of)
        self._references = SizedCache[tuple[torch.Tensor, ...]](
            _REFERENCE_CACHE_BYTES, lambda features: sum(map(bytes_of, features))
        )
        self._faces = SizedCache[SubjectFace](
            _FACE_CACHE_BYTES, lambda face: face.reference_crop.nbytes
        )

    @classmethod
    def load(
        cls, spec: VariantSpec, *, weights_dir: ModelsPlace, device: str, precision: str
    ) -> RenderEngine:
        """Load a variant's networks, never from the network.

        Args:
            spec: The variant.
            weights_dir: Folder of the public layout, as `ensure_weights` returns it.
            device: `cpu`, `cuda:0`, ...
            precision: Type of transformer, text encoder and resampler: float32, bfloat16 or
                float16. Autoencoder and recogniser are float32 always.

        Raises:
            RowError: WEIGHTS, if a file is missing, damaged or does not fit; OUT_OF_MEMORY.
        """
        place, dtype = torch.device(device), PRECISIONS[precision]
        base = weights_dir / spec.base
        with memory_errors(f"{spec.name} did not load"):
            denoiser = load_denoiser(base, spec, device=place, dtype=dtype)
            return cls(
                spec,
                scheduler_config=_read_scheduler_config(base),
                text=load_text_encoder(base, device=place, dtype=dtype),
                denoiser=denoiser,
                vae=load_vae(base, device=place),
                subject=load_subject_models(spec, weights_dir, denoiser, device=place, dtype=dtype),
                device=place,
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
        encoder = self._subject_models().face_encoder
        points = np.ascontiguousarray(landmarks, dtype=np.float32)
        key = (photo.shape, digest_bytes(np.ascontiguousarray(photo).data), points.tobytes())

        def make() -> SubjectFace:
            self.counters.face_runs += 1
            with memory_errors("the recogniser did not fit"), visiting(encoder, self.device):
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
        ladder = MemoryLadder(
            self._take_rung,
            what=f"{job.frames} frames of {job.size} did not fit",
            device=self.device,
            taken=(OFFLOAD,) if self._offloaded else (),
        )

        def decode() -> npt.NDArray[np.uint8]:
            with clock.stage("decode"):
                return self.decode(latents, tiled=VAE_TILING in ladder.taken)

        with reproducible(job.numerics):
            latents = ladder.fit(
                partial(self._make_latents, job, face, clock), rungs=BIT_NEUTRAL_RUNGS
            )
            strict = job.numerics == "strict"
            frames = ladder.fit(decode, rungs=BIT_NEUTRAL_RUNGS if strict else RUNGS)
        return Rendering(
            frames=frames,
            stages_s=clock.stages_s,
            peak_memory_bytes=peak_memory_bytes(self.device),
            conditions=Conditions(
                attention_backend=self.denoiser.backend, memory_rungs=ladder.taken
            ),
        )

    def free_caches(self) -> None:
        """Forget the texts, reference features and faces of earlier jobs."""
        for cache in (self._texts, self._references, self._faces):
            cache.clear()

    def offload(self) -> None:
        """Let autoencoder and subject models wait in host memory until the engine is replaced.

        They visit the device while they are used, as the text encoder and the adapters always do.
        """
        self._vae.offload()
        if self.subject is not None:
            self.subject.offload()
        self._offloaded = True

    @torch.inference_mode()
    def encode_text(self, prompt: str) -> torch.Tensor:
        """Return text tokens [1, 512, D_text] of a prompt; each string is encoded once."""

        def make() -> torch.Tensor:
            self.counters.text_encodes += 1
            return self._text.encode(prompt).cpu()

        return pad_text(self._texts.get_or_make(prompt, make)).to(self.device)

    @torch.inference_mode()
    def identity_tokens(self, face: SubjectFace | None) -> torch.Tensor:
        """Return identity tokens [1, 16, D_in]; None stands for the zero embedding."""
        subject = self._subject_models()
        if face is None:
            embedding = torch.zeros(1, subject.resampler.embedding_width)
        else:
            # Copied: an array from another process may be read-only, which torch warns of.
            embedding = torch.tensor(face.embedding)[None]
        with visiting(subject.resampler, self.device):
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
            return partial(self.denoiser.velocity, text=text, adapters=adapters)

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
        return sample(
            draw_noise(shape, seed=job.seed).to(self.device),
            branches,
            schedule=start_schedule(self._scheduler_config, steps=job.steps),
            guidance=guidance_of(job, self.spec),
            on_step=on_step,
        )

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor, *, tiled: bool = False) -> npt.NDArray[np.uint8]:
        """Return frames, RGB uint8 [F, H, W, 3]; `tiled` saves memory and changes numbers.

        Raises:
            RowError: BAD_FRAMES, if they hold NaN or no content.
        """
        self.counters.vae_decodes += 1
        return checked_frames(self._vae.decode(latents, tiled=tiled))

    def _make_latents(
        self, job: RenderJob, face: SubjectFace | None, clock: StageClock
    ) -> torch.Tensor:
        """Return the clip's latents; all else that was made for them is dropped."""
        with clock.stage("text"):
            for prompt in (job.prompt, job.negative_prompt):
                self.encode_text(prompt)
        with clock.stage("subject"):
            branches = self.branches(job, face)
        with clock.stage("denoise"):
            return self.sample(job, branches, on_step=partial(clock.tell, "denoise"))

    def _take_rung(self, rung: str) -> None:
        # Tiling is an argument of the decode, so that nothing is left to undo.
        if rung == FREE_CACHES:
            self.free_caches()
        elif rung == OFFLOAD:
            self.offload()

    def _subject_models(self) -> SubjectModels:
        if self.subject is None:
            raise ValueError(f"{self.spec.name} renders without a subject")
        return self.subject


def guidance_of(job: RenderJob, spec: VariantSpec) -> Guidance:
    """Return the guidance over the spec's branches, at the job's scales."""
    if "identity" in spec.branches:
        return IdentityGuidance(text=job.guidance_text, identity=job.guidance_identity)
    return TextGuidance(text=job.guidance_text)


def _read_scheduler_config(base: Path) -> dict[str, object]:
    path = base / "scheduler" / "scheduler_config.json"
    config = read_config(path)
    if "flow_shift" not in config or not _FLOW_SCHEDULE.items() <= config.items():
        raise weights_error(
            path, f"holds no flow schedule, which has a flow_shift and {dict(_FLOW_SCHEDULE)}"
        )
    return config
