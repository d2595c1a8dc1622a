"""`lynx-engine bench`: measures this machine now, and says what that means for each variant."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import DevicesOption, JsonOption

if TYPE_CHECKING:
    from lynx_engine.capacity.calibration import Calibration
    from lynx_engine.capacity.machine import Device
    from lynx_engine.forecast import Forecaster

EXAMPLE = "Example: lynx-engine bench --quick"

_FULL_S, _QUICK_S = 120.0, 10.0


def command(
    quick: Annotated[bool, typer.Option("--quick", help="Twenty seconds, less exact.")] = False,
    devices: DevicesOption = "auto",
    json: JsonOption = False,
) -> None:
    """Measure matrix rate, block, decode and a tiny clip end to end; keep it as calibration."""
    from lynx_engine.cli.console import note, say, say_json, show_table
    from lynx_engine.cli.doctor import calibrate_devices, choose_devices
    from lynx_engine.forecast import open_forecaster
    from lynx_engine.settings import load_settings
    from lynx_engine.trial import render_tiny
    from lynx_engine.words import duration_in_words

    settings = load_settings()
    found = choose_devices(devices)
    budget_s = _QUICK_S if quick else _FULL_S
    for line in calibrate_devices(found, settings, (), quiet=json, budget_s=budget_s):
        note(line)
    forecaster = open_forecaster(found, settings)
    rows = [row for device in found for row in _measured(forecaster, device)]
    trial = render_tiny(
        models_dir=settings.models_dir,
        cache_dir=settings.cache,
        threads=settings.threads,
        clips=3 if quick else 8,
    )
    tiny = {
        "load_s": trial.load_s,
        "first_clip_s": trial.clip_s[0],
        "clip_s": statistics.median(trial.clip_s[1:]),
    }
    if json:
        say_json({"devices": rows, "tiny_on_cpu": tiny})
        return
    columns = ("device", "variant", "TFLOP/s", "a step", "share of rate", "a clip", "upload GB/s")
    show_table("Measured now", columns, (_cells(row) for row in rows))
    say(
        f"tiny, end to end on the CPU: loaded in {duration_in_words(tiny['load_s'])}, first clip "
        f"{duration_in_words(tiny['first_clip_s'])}, then {duration_in_words(tiny['clip_s'])} each"
    )


def _measured(forecaster: Forecaster, device: Device) -> list[dict[str, object]]:
    from lynx_engine.forecast import default_request
    from lynx_engine.variants import all_variants

    rows: list[dict[str, object]] = []
    for spec in all_variants().values():
        request = default_request(spec)
        forecast = forecaster.of(request, device)
        entry = forecaster.calibration(request, device)
        if forecast.choice is None or entry is None or forecast.seconds is None:
            continue
        step_s = forecaster.step_seconds(request, device)
        rows.append(
            {
                "device": device.device,
                "device_name": device.name,
                "variant": spec.name,
                "matrix_flops": entry.speeds.matrix_rate,
                "upload_bytes_s": entry.speeds.upload_rate,
                "step_s": step_s,
                "share_of_rate": _share(forecaster, spec.name, entry, step_s),
                "clip_s": forecast.seconds,
            }
        )
    return rows


def _share(forecaster: Forecaster, variant: str, entry: Calibration, step_s: float) -> float:
    operations = forecaster.step_operations(variant)
    return operations / step_s / entry.speeds.matrix_rate if step_s else 0.0


def _cells(row: dict[str, object]) -> tuple[str, ...]:
    from lynx_engine.words import duration_in_words

    rate, upload = float(str(row["matrix_flops"])), float(str(row["upload_bytes_s"]))
    step, clip = float(str(row["step_s"])), float(str(row["clip_s"]))
    return (
        str(row["device"]),
        str(row["variant"]),
        f"{rate / 1e12:.3g}",
        f"{step:.3g} s",
        f"{float(str(row['share_of_rate'])):.0%}",
        duration_in_words(clip),
        f"{upload / 1e9:.1f}" if upload else "-",
    )
