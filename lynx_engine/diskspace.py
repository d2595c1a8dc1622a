"""Estimates what a plan's clips will take on disk, and refuses a run that would not find room.

It knows sizes, not models: what clips of this campaign took, else a rule of thumb.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from lynx_engine.errors import PausedError
from lynx_engine.folders import bytes_in_words, free_bytes
from lynx_engine.jobs import PastResult, RenderJob, RenderPlan
from lynx_engine.survey import CLIPS_FOLDER, file_sizes

RECORD_BYTES = 20_000
"""A row's record and its share of plain log and Prefect's database, generously."""

ClipForm = tuple[int | str, ...]
"""Frames, size, codec, crf and variant: clips that are alike in these are alike in bytes."""

# H.264 bits a pixel: 0.25 at crf 18, twice as much every 4 steps down. Measured with this engine's
# encoder on a photo under a moving camera, clean / with grain of 3 levels: crf 0 2.4 / 4.7, crf 12
# 0.36 / 1.6, crf 18 0.15 / 0.42, crf 24 0.07 / 0.08, crf 30 0.04 / 0.04, crf 40 0.02 / 0.02.
_BITS_AT_CRF_18 = 0.25
_CRF_TO_DOUBLE = 4.0
_FEWEST_BITS = 0.02
_RAW_BITS = 12.0  # 4:2:0 at 8 bits: what no encoder exceeds by much
_CONTAINER_BYTES = 4_000


def measured_sizes(past: Iterable[PastResult], clips: Path) -> Mapping[ClipForm, float]:
    """Return the mean bytes of the clips that are there, by form.

    Args:
        past: Attempts at this campaign's requests.
        clips: The folder of its clips.
    """
    found: dict[ClipForm, list[int]] = {}
    there = file_sizes(clips)
    for result in past:
        if result.clip in there:
            request = result.request
            form = tuple(
                _plain(request[name]) for name in ("frames", "size", "codec", "crf", "variant")
            )
            found.setdefault(form, []).append(there[result.clip])
    return {form: fmean(sizes) for form, sizes in found.items()}


def estimate_bytes(plan: RenderPlan, sizes: Mapping[ClipForm, float], *, devices: int = 1) -> int:
    """Return the bytes that the rows to run will probably need.

    Args:
        plan: What would run.
        sizes: From `measured_sizes`.
        devices: Rows that render at a time; each has a draft of the largest clip at worst. Of the
            seeds that the identity gate may take, each leaves a record, and one a clip.
    """
    clips = [_clip_bytes(planned.job, sizes) for planned in plan.to_run]
    drafts = min(devices, len(clips)) * max(clips, default=0.0)
    return round(sum(clips) + drafts) + RECORD_BYTES * plan.most_renderings


def check_space(
    plan: RenderPlan, folder: Path, devices: Sequence[str], past: Iterable[PastResult]
) -> None:
    """Accept a plan whose clips find room, or say how much is missing.

    Args:
        plan: What is about to run.
        folder: The campaign's folder, which need not be there yet.
        devices: Where it will run.
        past: Attempts at this campaign's requests.

    Raises:
        PausedError: If the disk has less room than the rows will probably need.
    """
    sizes = measured_sizes(past, folder / CLIPS_FOLDER)
    needed = estimate_bytes(plan, sizes, devices=len(devices))
    place, free = free_bytes(folder)
    if needed <= free:
        return
    rows = len(plan.to_run)
    raise PausedError(
        f"{folder} needs about {bytes_in_words(needed)} for {rows} clip{'s' * (rows > 1)}, "
        f"{bytes_in_words(free)} is free in {place}. Make room, or render fewer rows with --limit. "
        "LYNX_DISK_CHECK=false renders until the disk is full."
    )


def _clip_bytes(job: RenderJob, sizes: Mapping[ClipForm, float]) -> float:
    form = (job.frames, str(job.size), job.codec, job.crf, job.variant)
    return sizes[form] if form in sizes else _guess(job)


def _guess(job: RenderJob) -> float:
    bits = _BITS_AT_CRF_18 * 2 ** ((18 - job.crf) / _CRF_TO_DOUBLE)
    pixels = job.frames * job.size.width_px * job.size.height_px
    return _CONTAINER_BYTES + min(max(bits, _FEWEST_BITS), _RAW_BITS) * pixels / 8


def _plain(value: str | float) -> int | str:
    return value if isinstance(value, str) else int(value)
