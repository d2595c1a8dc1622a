"""How an attempt at a job ended, and what was found on the way: of the clip, its faces, its device.

These values travel from a device process to the campaign and from there into the log. They open no
files and know no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lynx_engine.errors import ErrorCode, LynxError
from lynx_engine.shapes import FrameSize


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """A clip that was decoded and checked.

    Attributes:
        bytes: File size.
        digest: sha256 of the file.
        frames_digest: sha256 of the decoded RGB frames, the same after a remux.
        frames: F, counted by decoding.
        fps: Frames a second, as the file declares.
        size: Width and height in pixels.
    """

    bytes: int
    digest: str
    frames_digest: str
    frames: int
    fps: float
    size: FrameSize


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a job's id leaves open and its record tells: how the device was used.

    Under `numerics: strict` none of it changes a bit; under `normal` it may change rounding.

    Attributes:
        attention_backend: The kernel family that computed attention.
        attention_reason: Why that one.
        compiled: Whether the transformer's blocks were compiled.
        memory_tier: The tier in force: resident, balanced or low.
        streamed_blocks: Transformer blocks that waited in host memory and visited the device.
        memory_rungs: Rungs of the memory ladder in force, in the order they were taken.
        vae_precision: Floating-point type the clip was decoded in.
        vae_tiled: Whether it was decoded in overlapping tiles.
        cached_passes: Predictions that a step cache answered with one block; 0 without it.
    """

    attention_backend: str
    attention_reason: str = ""
    compiled: bool = False
    memory_tier: str = "resident"
    streamed_blocks: int = 0
    memory_rungs: tuple[str, ...] = ()
    vae_precision: str = "float32"
    vae_tiled: bool = False
    cached_passes: int = 0


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """Where and how an attempt ran.

    Attributes:
        device: `cpu`, `cuda:0`, ...
        device_name: The device's own name.
        conditions: How the device was used.
        stages_s: Seconds by stage: load, text, subject, denoise, decode, encode, check, safety,
            score.
        threads: CPU threads of torch; sums over another number of them round differently.
        peak_memory_bytes: Largest device (on CPU: process) memory during the attempt.
        weights: Weight file -> sha256, for the files whose digest is known.
        driver: Version of the device's driver; "" for a CPU.
        ffmpeg_version: The program that encoded and decoded the clip.
        licences: Weight file or folder by its name in the public layout, or LoRA file by its whole
            path -> licence or terms.
    """

    device: str
    device_name: str
    conditions: Conditions
    stages_s: Mapping[str, float]
    threads: int
    peak_memory_bytes: int
    weights: Mapping[str, str]
    driver: str = ""
    ffmpeg_version: str = ""
    licences: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How much the faces of a clip resemble its subject, as one recogniser sees them.

    Scores are on the recogniser's own scale, 1 for the very same face; `calibration` says where on
    it two photos of one person lie.

    Attributes:
        evaluator: The recogniser, with version and licence.
        calibration: The score from which on two faces count as one person, and where that number
            comes from; "uncalibrated" where nobody published one.
        frames: Frames looked at, spread evenly over the clip.
        face_share: Part of them that show a face, 0 to 1.
        mean: Mean score over the frames that show a face, of the face most like the subject; None
            if no frame shows one.
        least: The lowest of these scores, or None.
        slope_per_s: Change of the score a second, by least squares; None with fewer than two.
        scores: Seconds into the clip, and the score there; None where no face is seen.
    """

    evaluator: str
    calibration: str
    frames: int
    face_share: float
    mean: float | None
    least: float | None
    slope_per_s: float | None
    scores: tuple[tuple[float, float | None], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a clip looks like, whoever is in it.

    Attributes:
        motion: Mean length of the optical flow, in short sides of the picture a second.
        frozen: Whether the picture stands still for half a second or longer.
        flicker: Whether its brightness jumps up and down from frame to frame.
        sharpness: Variance of the Laplacian of luma (0 to 255), mean over the frames looked at.
    """

    motion: float
    frozen: bool
    flicker: bool
    sharpness: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetyVerdict:
    """What the safety classifiers said of a clip's frames.

    Attributes:
        classifiers: Each with version and threshold, comma-separated.
        score: The highest score of any frame, as a part of its classifier's threshold: 1 and more
            is flagged.
        frame: The frame it belongs to, from 0.
    """

    classifiers: str
    score: float
    frame: int

    @property
    def flagged(self) -> bool:
        """Whether the clip must be withheld; a score that is no number flags it, too."""
        return not self.score < 1


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found in a finished clip; None where nobody looked.

    Attributes:
        likeness: How much it resembles its subject.
        look: Motion and sharpness.
        safety: What the classifiers said.
    """

    likeness: Likeness | None = None
    look: Look | None = None
    safety: SafetyVerdict | None = None


NOTHING_FOUND = Findings()


@dataclass(frozen=True, slots=True)
class Marks:
    """What tells, in and on a clip, that a machine made it.

    Attributes:
        labels: Of `tags` (mp4 metadata), the burnt-in profile `eu` or `cn`, and `c2pa`.
        credential: Identifier of its C2PA manifest; "" without signed credentials.
        signer: Who signed it: the certificate's subject, sha256 and last day; "" likewise.
    """

    labels: tuple[str, ...] = ()
    credential: str = ""
    signer: str = ""


UNMARKED = Marks()


@dataclass(frozen=True, slots=True)
class Rendered:
    """The clip passed its check, and is published unless a better one was before.

    Attributes:
        clip: File name in the campaign's clips folder; "" for a clip under the identity gate that
            is not better than the one published before it.
        facts: What decoding the clip showed.
        worker: Where and how it was made.
        findings: What was found in it.
        low_identity: Whether it is under the identity gate.
        marks: What tells that a machine made it.
    """

    clip: str
    facts: ClipFacts
    worker: WorkerFacts
    findings: Findings = NOTHING_FOUND
    low_identity: bool = False
    marks: Marks = UNMARKED


@dataclass(frozen=True, slots=True)
class Withheld:
    """The clip was rendered and not kept: a classifier flagged it, or could not say."""

    message: str
    verdict: SafetyVerdict | None = None


class WithheldError(LynxError):
    """A rendered clip must not be kept.

    Attributes:
        verdict: What the classifiers said; None if they could not.
    """

    def __init__(self, message: str, verdict: SafetyVerdict | None = None) -> None:
        """Carry the verdict, and a message that says what was seen or what failed."""
        self.verdict = verdict
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip from a device process."""
        return (WithheldError, (str(self), self.verdict))


@dataclass(frozen=True, slots=True)
class Failed:
    """The row has no clip; the others went on.

    Attributes:
        code: The kind of failure.
        message: The failure in words.
        stderr: The last lines that the failing program or process wrote, else "".
    """

    code: ErrorCode
    message: str
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The campaign was stopped while the row was in flight; the attempt is not charged."""


RenderResult = Rendered | Withheld | Failed | Interrupted
