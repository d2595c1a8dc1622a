"""Renders one job at a time with a model that stays loaded.

It turns a complete `RenderJob` and a subject's face into frames. It knows no manifest, clip file,
campaign or other process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from lynx_engine.capacity.placement import RESIDENT, Placement
from lynx_engine.conditioning import Conditioning
from lynx_engine.diffusion.guidance import (
    DistilledGuidance,
    Guidance,
    IdentityGuidance,
    TextGuidance,
)
from lynx_engine.diffusion.latents import draw_noise, latent_shape
from lynx_engine.diffusion.sampler import Branch, sample
from lynx_engine.diffusion.schedule import start_schedule
from lynx_engine.identity.embed import SubjectFace
from lynx_engine.models.attention import NO_ADAPTERS
from lynx_engine.models.caching import step_cache
from lynx_engine.models.device import (
    StageClock,
    peak_memory_bytes,
    reproducible,
    spendable_memory_bytes,
)
from lynx_engine.models.loras import LoraShelf
from lynx_engine.models.memory import MemoryLadder
from lynx_engine.models.text import REFERENCE_PROMPT
from lynx_engine.models.tiers import (
    DECODING_RUNGS,
    FREE_CACHES,
    SAMPLING_RUNGS,
    TILED_DECODING_RUNGS,
    place_job,
)
from lynx_engine.models.vae import checked_frames
from lynx_engine.parts import EngineParts, WorkCounters, load_parts
from lynx_engine.rendering import OnStage, Rendering
from lynx_engine.results import Conditions
from lynx_engine.speed import DISTILLED, is_cached

if TYPE_CHECKING:
    from lynx_engine.folders import ModelsPlace
    from lynx_engine.jobs import RenderJob
    from lynx_engine.variants.spec import VariantSpec


class RenderEngine:
    """One loaded variant on one device. Two engines in a process share nothing."""

    def __init__(self, spec: VariantSpec, parts: EngineParts) -> None:
        """Assemble loaded parts; `load` is the usual way in."""
        self.spec = spec
        self.device = parts.device
        self.counters = WorkCounters(model_loads=1)
        self.denoiser = parts.denoiser
        self.conditioning = Conditioning(spec, parts, self.counters)
        self.loras = LoraShelf(parts.denoiser.transformer, parts.device)
        self._scheduler_config = parts.scheduler_config
        self._vae = parts.vae
        self._placer = parts.placer
        self._architecture = parts.architecture
        self._decode_precision = ""

    @classmethod
    def load(
        cls,
        spec: VariantSpec,
        *,
        weights_dir: ModelsPlace,
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
        """Recognise one face; see `Conditioning.embed_face`."""
        return self.conditioning.embed_face(photo, landmarks)

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
        chosen = self._choose_placement(job)
        ladder = MemoryLadder(
            partial(self._take_rung, job_size=size),
            what=f"{job.frames} frames of {job.size} did not fit",
            device=self.device,
            taken=self._placer.start(chosen, job_size=size, strict=strict),
        )

        def decode() -> tuple[npt.NDArray[np.uint8], str]:
            with clock.stage("decode"):
                return self._decode_row(job, latents)

        cached_before = self.counters.cached_passes
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
                cached_passes=self.counters.cached_passes - cached_before,
            ),
        )

    def branches(self, job: RenderJob, face: SubjectFace | None) -> tuple[Branch, ...]:
        """Return the predictions of one step, in the order of the spec.

        The subject's keys and values are made here, once a job: a set with and one without it.
        """
        names, made = self.spec.branches_at(job.speed), self.conditioning
        prompt = made.encode_text(job.prompt)
        subject = made.adapters(job, face) if self.spec.uses_subject else NO_ADAPTERS
        inputs = {"full": (prompt, subject), "text": (prompt, NO_ADAPTERS)}
        if "unconditional" in names:
            negative = self.conditioning.encode_text(job.negative_prompt)
            nobody = (
                self.conditioning.adapters(job, None) if self.spec.uses_subject else NO_ADAPTERS
            )
            inputs |= {"unconditional": (negative, nobody), "identity": (negative, subject)}

        def branch(name: str) -> Branch:
            text, adapters = inputs[name]
            return partial(self.denoiser.velocity, text=text, adapters=adapters, branch=name)

        return tuple(branch(name) for name in names)

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
        threshold = self.spec.cache_threshold if is_cached(job.speed) else None
        with (
            self.denoiser.clip(job.numerics, laid_over=job.loras),
            step_cache(self.denoiser.transformer, threshold=threshold) as cache,
        ):
            latents = sample(
                draw_noise(shape, seed=job.seed).to(self.device),
                cache.over(self.spec.branches_at(job.speed), branches),
                schedule=start_schedule(self._scheduler_config, steps=job.steps),
                guidance=guidance_of(job, self.spec),
                one_step=self.denoiser.step,
                on_step=on_step,
            )
        self.counters.cached_passes += cache.passes
        return latents

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
        """Return the fastest precision that decodes well; the first latents asked for decide.

        Latents that are not finite decode well in none, and decide nothing for the clips after.
        """
        if not bool(torch.isfinite(latents).all()):
            return "float32"
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
        # The one branch of a distilled job has no negative prompt.
        texts = [job.prompt, *(() if job.speed == DISTILLED else (job.negative_prompt,))]
        if self.spec.uses_reference and job.scale_reference != 0:
            texts.append(REFERENCE_PROMPT)
        with clock.stage("text"):
            self.conditioning.encode_texts(texts)
        with ExitStack() as stack:
            with clock.stage("subject"):
                stack.enter_context(self.loras.laid_over(job.loras))
                branches = self.branches(job, face)
            with clock.stage("denoise"):
                return self.sample(job, branches, on_step=partial(clock.tell, "denoise"))

    def _choose_placement(self, job: RenderJob) -> Placement:
        on_card = self.device.type == "cuda"
        return place_job(
            job,
            blocks=self.denoiser.blocks,
            architecture=self._architecture,
            spendable_bytes=spendable_memory_bytes(self.device) if on_card else None,
        )

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
            self.conditioning.free_caches()
            return True
        return self._placer.step_down(rung, job_size=job_size)


def guidance_of(job: RenderJob, spec: VariantSpec) -> Guidance:
    """Return the guidance over the job's branches, at its scales."""
    if job.speed == DISTILLED:
        return DistilledGuidance()
    if "identity" in spec.branches:
        return IdentityGuidance(text=job.guidance_text, identity=job.guidance_identity)
    return TextGuidance(text=job.guidance_text)
