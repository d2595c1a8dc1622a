"""Says what a plan's rows need and how long they take, on the devices there are, before any of it.

Three sources, the best first: what rows alike took here before, what was calibrated on this
machine, nothing. It loads no torch and renders nothing.
"""

from __future__ import annotations

import platform
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lynx_engine.capacity.architecture import Architecture
from lynx_engine.capacity.calibration import ADVICE, Calibration, Calibrations
from lynx_engine.capacity.choose import Choice, DoesNotFit, choose, choose_on_cpu
from lynx_engine.capacity.cost import Work, pass_operations, predict_seconds
from lynx_engine.capacity.extras import NO_EXTRAS, Extras, extras_of
from lynx_engine.capacity.machine import Device
from lynx_engine.shapes import FrameSize
from lynx_engine.variants import get_variant
from lynx_engine.variants.dimensions import architecture_of, weights_folder

if TYPE_CHECKING:
    import polars as pl

    from lynx_engine.jobs import RenderJob
    from lynx_engine.settings import Settings
    from lynx_engine.variants.spec import VariantSpec

_STAGES = ("text_s", "subject_s", "denoise_s", "decode_s")
_ALIKE_BY = attrgetter(
    "variant", "frames", "size", "steps", "precision", "numerics", "memory", "speed", "loras"
)
_LOAD_START_S = 8.0  # a process, torch and diffusers
_LOAD_RATE = 1e9  # bytes a second from a disk, where no load was recorded


class Request(NamedTuple):
    """A kind of row: what is alike in time and memory.

    Attributes:
        variant: Registry name.
        frames: F.
        size: Width and height, as `832x480`.
        steps: Sampling steps.
        precision: Of the transformer.
        numerics: normal or strict.
        memory: Memory tier asked for.
        extras: Its shortcut and LoRAs.
    """

    variant: str
    frames: int
    size: str
    steps: int
    precision: str
    numerics: str
    memory: str
    extras: Extras = NO_EXTRAS


Alike = tuple[str, int, str, int, str, str]
"""Variant, frames, size, steps, speed, device name: what a measured time holds for."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """One kind of row on one device.

    Attributes:
        device: Where.
        choice: The placement with its estimate; None if it does not fit or has no model.
        why: Why it does not fit, or "".
        seconds: A clip takes, None if unknown.
        source: `measured`, `calibrated`, or "" if unknown.
    """

    device: Device
    choice: Choice | None
    why: str = ""
    seconds: float | None = None
    source: str = ""

    @property
    def fits(self) -> bool:
        """Whether it can render there."""
        return not self.why


@dataclass(frozen=True, slots=True)
class Past:
    """What rows took before.

    Attributes:
        clip_s: Median seconds of a clip, by what is alike.
        load_s: Median seconds of loading a variant on a device, by variant and device name.
    """

    clip_s: Mapping[Alike, float] = field(default_factory=dict[Alike, float])
    load_s: Mapping[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])


class Forecaster:
    """Answers for kinds of rows, each worked out once."""

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        settings: Settings,
        calibrations: Calibrations,
        torch_version: str,
        past: Past | None = None,
    ) -> None:
        """Look at `devices` with what was calibrated and what the past knows."""
        self.devices = tuple(devices)
        self._settings = settings
        self._calibrations = calibrations
        self._torch_version = torch_version
        self._past = past or Past()
        self._known: dict[tuple[Request, str], Forecast] = {}
        self._architectures: dict[str, Architecture | None] = {}

    def of(self, request: Request, device: Device) -> Forecast:
        """Return the forecast of one kind of row on one device."""
        key = (request, device.device)
        if key not in self._known:
            self._known[key] = self._forecast(request, device)
        return self._known[key]

    def load_seconds(self, variant: str, device: Device) -> float:
        """Return the seconds that loading a variant takes, measured or by rule of thumb."""
        for name in _names_of(device):
            if (variant, name) in self._past.load_s:
                return self._past.load_s[variant, name]
        architecture = self._architecture(variant)
        if architecture is None:
            return 0.0
        numbers = architecture.transformer.numbers + architecture.text.numbers
        return _LOAD_START_S + 4 * numbers / _LOAD_RATE

    def calibration(self, request: Request, device: Device) -> Calibration | None:
        """Return what was measured on such a device for such a model, or None."""
        architecture = self._architecture(request.variant)
        if architecture is None:
            return None
        return self._calibrations.find(
            device_name=device.name,
            torch_version=self._torch_version,
            precision=request.precision,
            architecture=architecture.key,
        )

    def step_seconds(self, request: Request, device: Device) -> float:
        """Return the seconds of one step as calibrated; 0.0 if it is not known."""
        architecture = self._architecture(request.variant)
        entry, choice = self.calibration(request, device), self.of(request, device).choice
        if architecture is None or entry is None or choice is None:
            return 0.0
        work = replace(_work_of(request), steps=1)
        return predict_seconds(architecture, work, choice.placement, entry.speeds)["denoise"]

    def step_operations(self, variant: str) -> int:
        """Return the operations of one step at a variant's defaults, 0 without a model."""
        architecture, d = self._architecture(variant), get_variant(variant).defaults
        if architecture is None:
            return 0
        size = d.size
        tokens = architecture.transformer.tokens(d.frames, size.height_px, size.width_px)
        return architecture.branches * pass_operations(architecture, tokens)

    def _forecast(self, request: Request, device: Device) -> Forecast:
        architecture = self._architecture(request.variant)
        seconds = self._measured(request, device)
        if architecture is None:
            return Forecast(device, None, seconds=seconds, source="measured" if seconds else "")
        try:
            choice = _choose(architecture, device, request)
        except DoesNotFit as error:
            return Forecast(device, None, why=str(error))
        if seconds is not None:
            return Forecast(device, choice, seconds=seconds, source="measured")
        entry = self.calibration(request, device)
        if entry is None:
            return Forecast(device, choice)
        work = _work_of(request)
        stages = predict_seconds(architecture, work, choice.placement, entry.speeds)
        return Forecast(device, choice, seconds=sum(stages.values()), source="calibrated")

    def _measured(self, request: Request, device: Device) -> float | None:
        kind = (request.variant, request.frames, request.size, request.steps, request.extras.speed)
        found = (self._past.clip_s.get((*kind, name)) for name in _names_of(device))
        return next((seconds for seconds in found if seconds is not None), None)

    def _architecture(self, variant: str) -> Architecture | None:
        if variant not in self._architectures:
            spec = get_variant(variant)
            settings = self._settings
            folder = weights_folder(spec, models_dir=settings.models_dir, cache_dir=settings.cache)
            self._architectures[variant] = architecture_of(spec, folder)
        return self._architectures[variant]


def request_of(job: RenderJob) -> Request:
    """Return the kind of row that a job is."""
    return Request(
        job.variant,
        job.frames,
        str(job.size),
        job.steps,
        job.precision,
        job.numerics,
        job.memory,
        extras_of(job),
    )


def count_requests(jobs: Iterable[RenderJob]) -> dict[Request, int]:
    """Return each kind of row with how many there are, in the order they come first."""
    given = list(jobs)
    alike = list(map(_ALIKE_BY, given))
    # A request is made for each kind, not for each of a hundred thousand rows.
    some = dict(zip(alike, given, strict=True))
    counts: dict[Request, int] = {}
    for key, count in Counter(alike).items():
        request = request_of(some[key])
        counts[request] = counts.get(request, 0) + count
    return counts


def default_request(spec: VariantSpec) -> Request:
    """Return the kind of row that a variant renders where its author wrote nothing."""
    d = spec.defaults
    return Request(spec.name, d.frames, str(d.size), d.steps, d.precision, "normal", "auto")


def measured_past(log: pl.DataFrame) -> Past:
    """Return what a campaign's log knows of times.

    Args:
        log: Records, one row an attempt, as `read_log` returns them.
    """
    clips: dict[Alike, list[float]] = {}
    loads: dict[tuple[str, str], list[float]] = {}
    kind = ("variant", "frames", "size", "steps", "speed", "device_name")
    wanted = (*kind, "load_s", *_STAGES, "status")
    if log.is_empty() or not set(wanted) <= set(log.columns):
        return Past()
    for variant, frames, size, steps, speed, name, load, *stages, status in log.select(
        wanted
    ).iter_rows():
        if status not in {"rendered", "low_identity"} or None in stages:
            continue
        clips.setdefault((variant, frames, size, steps, speed, name), []).append(sum(stages))
        if load:
            loads.setdefault((variant, name), []).append(load)
    return Past(
        {key: statistics.median(taken) for key, taken in clips.items()},
        {key: statistics.median(taken) for key, taken in loads.items()},
    )


@dataclass(frozen=True, slots=True)
class CampaignForecast:
    """A whole plan.

    Attributes:
        seconds: Until the last row ends; None if some row's time is unknown.
        device_seconds: Devices work for it, summed; None likewise.
        gpu_seconds: The part of it that GPUs work.
        homeless: Kinds of rows that fit no device -> why, on the largest of them.
        unknown: Kinds of rows whose time is not known.
    """

    seconds: float | None
    device_seconds: float | None
    gpu_seconds: float | None
    homeless: Mapping[Request, str]
    unknown: frozenset[Request]

    @property
    def advice(self) -> str:
        """What to do about unknown times, or ""."""
        return f"no calibration: {ADVICE}" if self.unknown else ""


def forecast_campaign(jobs: Iterable[RenderJob], forecaster: Forecaster) -> CampaignForecast:
    """Say when a plan will be through.

    Rows go out as the dispatcher hands them out: model by model, the longest first, each to the
    device that is free first; a device that changes its model loads it first.
    """
    counts = count_requests(jobs)
    homeless: dict[Request, str] = {}
    unknown: set[Request] = set()
    known: list[tuple[Request, float]] = []
    for request in counts:
        on = [forecaster.of(request, device) for device in forecaster.devices]
        able = [forecast for forecast in on if forecast.fits]
        if not able and on:
            largest = max(on, key=lambda forecast: forecast.device.total_bytes)
            homeless[request] = largest.why
        elif able and all(forecast.seconds is not None for forecast in able):
            known.append((request, max(f.seconds or 0.0 for f in able)))
        elif able:
            unknown.add(request)
    if unknown or not forecaster.devices:
        return CampaignForecast(None, None, None, homeless, frozenset(unknown))
    known.sort(key=lambda item: (item[0][0], item[0][4], -item[1]))
    clocks, busy = _hand_out([(r, counts[r]) for r, _ in known], forecaster)
    gpu = sum(spent for device, spent in busy.items() if not device.startswith("cpu"))
    return CampaignForecast(
        max(clocks.values(), default=0.0), sum(busy.values()), gpu, homeless, frozenset()
    )


def _hand_out(
    requests: Sequence[tuple[Request, int]], forecaster: Forecaster
) -> tuple[dict[str, float], dict[str, float]]:
    """Return device -> seconds until it is done, and device -> seconds that it works."""
    clocks = {device.device: 0.0 for device in forecaster.devices}
    loaded: dict[str, tuple[str, str]] = {}
    for request, count in requests:
        model = (request[0], request[4])
        able = [d for d in forecaster.devices if forecaster.of(request, d).fits]
        for _ in range(count):
            device = min(able, key=lambda d: clocks[d.device])
            if loaded.get(device.device) != model:
                clocks[device.device] += forecaster.load_seconds(request[0], device)
                loaded[device.device] = model
            clocks[device.device] += forecaster.of(request, device).seconds or 0.0
    return clocks, dict(clocks)


def _choose(architecture: Architecture, device: Device, request: Request) -> Choice:
    size = FrameSize.parse(request.size)
    if device.is_cpu:
        return choose_on_cpu(
            architecture,
            frames=request.frames,
            size=size,
            precision=request.precision,
            free_bytes=device.usable_bytes,
            extras=request.extras,
        )
    return choose(
        request.memory,
        architecture,
        frames=request.frames,
        size=size,
        precision=request.precision,
        numerics=request.numerics,
        free_bytes=device.usable_bytes,
        extras=request.extras,
    )


def _work_of(request: Request) -> Work:
    size = FrameSize.parse(request.size)
    return Work(request.frames, size, request.steps, request.precision, request.extras)


def _names_of(device: Device) -> tuple[str, ...]:
    """Return the names under which records know a device."""
    also = (platform.processor() or platform.machine(),) if device.is_cpu else ()
    return (device.name, *also)


def open_forecaster(
    devices: Sequence[Device], settings: Settings, log: Path | None = None
) -> Forecaster:
    """Return a forecaster with this machine's calibration, and the past of one campaign.

    Args:
        devices: Where rows would run.
        settings: Folders.
        log: The campaign's log, or None.

    Raises:
        DamagedError: If the log is damaged.
    """
    from lynx_engine.capacity.calibration import read_calibrations
    from lynx_engine.provenance.environment import read_environment

    past = None
    if log is not None and log.is_dir():
        from lynx_engine.provenance.store import read_parts

        past = measured_past(read_parts(log))
    return Forecaster(
        devices,
        settings=settings,
        calibrations=read_calibrations(settings.cache),
        torch_version=read_environment().torch_version.partition("+")[0],
        past=past,
    )
