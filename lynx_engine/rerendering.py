"""Renders recorded clips again, from their records alone, and compares the decoded frames.

It renders in a workspace of its own, in the state folder, that is gone afterwards. Whether frames
must be equal is decided by the conditions that both records tell: under equal ones another picture
is damage, under others it is told, with how far it is away.
"""

from __future__ import annotations

import fcntl
import math
import os
import random
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lynx_engine.dispatch import in_running_order
from lynx_engine.errors import RowError
from lynx_engine.jobs import PlannedJob, Reason, RenderPlan
from lynx_engine.media.video import read_frames
from lynx_engine.provenance.store import read_log
from lynx_engine.remaking import Remake, remake
from lynx_engine.survey import CLIPS_FOLDER
from lynx_engine.verification import CampaignState, Damage, Fault

if TYPE_CHECKING:
    from lynx_engine.provenance.trace import Record
    from lynx_engine.settings import Settings

CAMPAIGN = "rendered-again"
SCRATCH = "rendered-again-"
"""How the names of its folders in the state folder begin; `clean` removes those of dead runs."""

Render = Callable[..., object]
"""`flows.run.render`: takes a plan, and settings by keyword."""

_CONDITIONS = {
    "device_name": "device",
    "driver": "driver",
    "platform": "platform",
    "engine_version": "lynx_engine",
    "commit": "commit",
    "torch_version": "torch",
    "diffusers_version": "diffusers",
    "ffmpeg_version": "ffmpeg",
}
"""Columns that may change a pixel whatever the row asks for -> a reader's word."""

_ROUNDING = {
    "attention_backend": "attention",
    "compiled": "compiled",
    "vae_precision": "decoder's precision",
    "vae_tiled": "tiles",
    "memory_rungs": "memory rungs",
    "threads": "threads",
}
"""Columns that change rounding, unless the row asks for `numerics: strict`."""


class Outcome(StrEnum):
    """What rendering a clip again showed.

    Attributes:
        SAME: Equal frames.
        OTHER: Other frames, under other conditions.
        DIFFERS: Other frames, although nothing that is recorded has changed.
        NOT_RENDERED: It could not be rendered again here.
    """

    SAME = "same"
    OTHER = "other"
    DIFFERS = "differs"
    NOT_RENDERED = "not rendered"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A clip and its second rendering.

    Attributes:
        record: Its row of the log.
        outcome: What was found.
        text: It in words, without the clip's name.
        psnr_db: Peak signal-to-noise ratio over all RGB values, in dB; None for equal frames, or
            where a clip cannot be decoded.
    """

    record: Record
    outcome: Outcome
    text: str
    psnr_db: float | None = None


def draw(states: Sequence[CampaignState], count: int, seed: int) -> list[Record]:
    """Return `count` records of undamaged clips, or all there are: the same ones for one seed."""
    drawn_from = [
        record
        for state in states
        for name, record in state.inventory.clips.items()
        if name not in {d.record["clip"] for d in state.damage if d.record is not None}
    ]
    return random.Random(seed).sample(drawn_from, min(count, len(drawn_from)))


def render_again(
    records: Sequence[Record], settings: Settings, *, render: Render, devices: str = "auto"
) -> list[Comparison]:
    """Render records again and compare; the workspace is only read.

    Args:
        records: Rows of the log, each with its clip.
        settings: The workspace that they belong to.
        render: Runs a plan; called once, with rows of one model together.
        devices: As `render` takes them; the first one is used.

    Returns:
        A comparison for each record, in their order.

    Raises:
        LynxError: As `render` does for the whole plan.
    """
    remakes = [remake(record, settings) for record in records]
    jobs = {
        again.job.job_id: replace(again.job, campaign=CAMPAIGN)
        for again in remakes
        if again.job is not None and not again.refusals
    }
    with _scratch(settings.state_dir) as folder:
        elsewhere = _elsewhere(settings, folder)
        planned = [PlannedJob(job, Reason.NEW, "to compare", 1) for job in jobs.values()]
        plan = RenderPlan(CAMPAIGN, tuple(in_running_order(planned)), (), ())
        if planned:
            render(plan, settings=elsewhere, devices=devices, in_process=True, skip_bad_rows=True)
        log = read_log(CAMPAIGN, settings=elsewhere)
        made = {record["job_id"]: record for record in log.iter_rows(named=True)}
        return [_compared(again, made, settings, elsewhere) for again in remakes]


@contextmanager
def _scratch(state_dir: Path) -> Generator[Path]:
    """Give a folder that its owner alone may read; it is held, so that `clean` passes over it."""
    state_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=state_dir) as name, _held(Path(name)):
        yield Path(name).resolve()


def dead_scratch(state_dir: Path) -> Iterator[Path]:
    """Give the folders whose run is dead."""
    for folder in sorted(state_dir.glob(f"{SCRATCH}*")):
        try:
            with _held(folder):
                yield folder
        except BlockingIOError:
            continue


@contextmanager
def _held(folder: Path) -> Generator[None]:
    """Hold a folder's lock, which the system frees when its holder dies.

    Raises:
        BlockingIOError: If another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _elsewhere(settings: Settings, folder: Path) -> Settings:
    """Return the settings of a workspace that only renders: nobody scores, signs or reports."""
    models = settings.models_dir.resolve()
    return settings.model_copy(
        update={
            "workspace": folder,
            "outputs": Path("outputs"),
            "state": Path(".lynx"),
            "models": models.root,
            "model_paths": dict(models.paths),
            "cache": settings.cache.resolve(),
            "evaluator": "none",
            "credentials": None,
            "report": False,
        }
    )


def _compared(
    again: Remake, made: Mapping[str, Record], settings: Settings, elsewhere: Settings
) -> Comparison:
    record = again.record
    problems = again.refusals or (again.warnings if again.job is None else ())
    if again.job is None or problems:
        told = "; ".join(map(str, problems))
        return Comparison(record, Outcome.NOT_RENDERED, f"cannot be rendered again here: {told}")
    new = made.get(again.job.job_id)
    if new is None or not new["clip"]:
        why = "it was not reached" if new is None else f"{new['code']}: {new['message']}"
        return Comparison(record, Outcome.NOT_RENDERED, f"could not be rendered again: {why}")
    if new["frames_digest"] == record["frames_digest"]:
        return Comparison(record, Outcome.SAME, "rendered again to the same frames")
    clips = settings.campaign_dir(str(record["campaign"])) / CLIPS_FOLDER
    psnr = _psnr_db(
        clips / str(record["clip"]),
        elsewhere.campaign_dir(CAMPAIGN) / CLIPS_FOLDER / str(new["clip"]),
    )
    away = "" if psnr is None else f", PSNR {psnr:.1f} dB"
    changed = changed_conditions(record, new)
    if changed:
        text = f"rendered again to other frames{away}, under other conditions: {', '.join(changed)}"
        return Comparison(record, Outcome.OTHER, text, psnr)
    text = f"rendered again to other frames{away}, although nothing on record has changed."
    return Comparison(record, Outcome.DIFFERS, text, psnr)


def changed_conditions(before: Record, now: Record) -> list[str]:
    """Return what was different between two renderings, and may change a pixel."""
    columns: dict[str, str] = dict(_CONDITIONS)
    if before["numerics"] != "strict":
        columns |= _ROUNDING
    return [
        f"{word} {_shown(before[name])} -> {_shown(now[name])}"
        for name, word in columns.items()
        if before[name] != now[name]
    ]


def _shown(value: Any) -> str:
    return str(value) if value != "" else "unknown"


def _psnr_db(one: Path, other: Path) -> float | None:
    """Return 10 log10(255^2 / MSE) over two clips; None if it cannot be told, or they are equal."""
    import numpy as np

    try:
        first, second = read_frames(one), read_frames(other)
    except RowError:
        return None
    if first.shape != second.shape:
        return None
    # Frame by frame: a long clip in float64 would take eight times its room.
    squares = [
        float(np.square(a.astype(np.float64) - b).mean())
        for a, b in zip(first, second, strict=True)
    ]
    error = sum(squares) / len(squares)
    return 10 * math.log10(255**2 / error) if error else None


def pixel_damage(comparisons: Sequence[Comparison], settings: Settings) -> Iterator[Damage]:
    """Yield the damage among comparisons: other frames although nothing has changed."""
    for found in comparisons:
        if found.outcome is Outcome.DIFFERS:
            campaign = str(found.record["campaign"])
            path = settings.campaign_dir(campaign) / CLIPS_FOLDER / str(found.record["clip"])
            yield Damage(campaign, Fault.PIXELS, str(path), found.text, found.record)
