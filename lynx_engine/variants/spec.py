"""What a variant is, readable without torch: its shapes, adapters, branches, defaults and files.

A variant is one file that builds one `VariantSpec`, and one line in the registry. The engine asks
the spec; nothing inspects a loaded model to learn what it can do.
"""

from __future__ import annotations

from dataclasses import dataclass

from lynx_engine.shapes import FrameSize
from lynx_engine.speed import DISTILLED
from lynx_engine.weights.origins import WeightFile

ACKNOWLEDGED_OFF = "acknowledged-off"
"""The `safety` setting by which a person answers for clips that nobody checks."""


@dataclass(frozen=True, slots=True)
class IdentityAdapterSpec:
    """How identity tokens enter the base model's cross-attention.

    Attributes:
        block_stride: The adapter's layer j sits in block `block_stride * j`.
        shares_text_key_norm: Keys pass through the block's own cross-attention `norm_k`;
            otherwise through a parameter-free RMS norm over the whole width (eps 1e-5, float32).
    """

    block_stride: int
    shares_text_key_norm: bool


@dataclass(frozen=True, slots=True)
class RenderDefaults:
    """The settings a row gets where its author wrote none."""

    size: FrameSize
    frames: int
    fps: int
    steps: int
    guidance_text: float
    guidance_identity: float
    scale_identity: float
    scale_reference: float
    precision: str
    negative_prompt: str


@dataclass(frozen=True, slots=True)
class VariantSpec:
    """What a variant can render.

    Attributes:
        name: Identifier used in manifests, on the command line and in provenance.
        summary: One line for `lynx-engine variants`.
        base: Base model in diffusers layout, relative to the models folder.
        adapters: Folder of the adapter files, relative to the models folder; "" without any.
        face_encoder: Recogniser that makes the identity embedding; "" without identity.
        identity: How identity enters, or None.
        uses_reference: Whether the reference adapter is part of it.
        depicts_people: Whether its pictures can show a recognisable person; such a variant needs
            a safety check or a person who takes responsibility.
        builder: `module:function` that makes the weights here from `recipe`, or "" when the files
            are downloaded. Such weights live in the user's cache, not in the models folder.
        recipe: Version of that recipe: the weights fingerprint, "" for downloaded weights.
        loader: `module:function` that loads its engine, a `rendering.EngineLoader`.
        defaults: Settings of rows that give none.
        weights: Files with source and licence.
        frame_stride: Pixel frames per latent frame after the first one.
        size_multiple: Height and width, in pixels, come in steps of this size.
        memory_tiers: Memory tiers it runs in.
        speeds: Speed options it runs with, in the manifest's words.
        cache_threshold: How far the first block's residual may drift under `speed: cache` before
            all blocks run again. The default is diffusers' own; other projects take 0.03 to 0.08
            for big video models. It stands in the job's id.
        renders_loras: Whether LoRAs can be laid over it.
        labels: Burnt-in label profiles it can apply.
    """

    name: str
    summary: str
    base: str
    adapters: str
    face_encoder: str
    identity: IdentityAdapterSpec | None
    uses_reference: bool
    depicts_people: bool
    builder: str
    recipe: str
    defaults: RenderDefaults
    weights: tuple[WeightFile, ...]
    frame_stride: int = 4
    size_multiple: int = 16
    loader: str = "lynx_engine.loading:load_engine"
    memory_tiers: tuple[str, ...] = ("auto", "resident", "balanced", "low")
    speeds: tuple[str, ...] = ("exact",)
    cache_threshold: float = 0.05
    renders_loras: bool = False
    labels: tuple[str, ...] = ("none", "eu", "cn")

    @property
    def uses_subject(self) -> bool:
        """Whether a subject photo shapes the clip."""
        return self.identity is not None

    def is_checked(self, safety: str) -> bool:
        """Whether a clip rendered with this `safety` setting must pass the safety check."""
        return self.depicts_people and safety != ACKNOWLEDGED_OFF

    @property
    def branches(self) -> tuple[str, ...]:
        """The predictions of one step, in the order they run."""
        if self.identity is None:
            return ("unconditional", "text")
        if self.uses_reference:
            return ("unconditional", "identity", "full")
        return ("unconditional", "full")

    def branches_at(self, speed: str) -> tuple[str, ...]:
        """The predictions of one step of a job of that recorded speed.

        A step-distilled LoRA has learned what guidance does, so only the last branch runs.
        """
        return self.branches[-1:] if speed == DISTILLED else self.branches

    def nearest_frames(self, frames: int) -> tuple[int, ...]:
        """Return () if `frames` is frame_stride * k + 1, else the nearest such counts."""
        remainder = (frames - 1) % self.frame_stride
        if frames >= 1 and remainder == 0:
            return ()
        below = frames - remainder
        return tuple(n for n in (below, below + self.frame_stride) if n >= 1)

    def nearest_size(self, size: FrameSize) -> FrameSize | None:
        """Return None if both sides are multiples of `size_multiple`, else the nearest size."""
        step = self.size_multiple
        width, height = (
            max(step, (side + step // 2) // step * step) for side in (size.width_px, size.height_px)
        )
        nearest = FrameSize(width, height)
        return None if nearest == size else nearest
