"""Tells forecasts: the lines of `plan` and the opening line of `render`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lynx_engine.speed import EXACT

if TYPE_CHECKING:
    from lynx_engine.capacity.machine import Device
    from lynx_engine.forecast import CampaignForecast, Forecast, Forecaster, Request
    from lynx_engine.jobs import RenderPlan
    from lynx_engine.settings import Settings

_GIB = 1 << 30
COLUMNS = ("variant", "shape", "rows", "device", "tier", "peak GiB", "a clip", "")


def look_ahead(
    plan: RenderPlan, settings: Settings, devices: Iterable[Device]
) -> tuple[Forecaster, CampaignForecast]:
    """Return the forecast of a plan on `devices`, from its log and this machine's calibration.

    Raises:
        DamagedError: If the campaign's log is damaged.
    """
    from lynx_engine.forecast import forecast_campaign, open_forecaster
    from lynx_engine.provenance.store import FOLDER

    log = settings.campaign_dir(plan.campaign) / FOLDER
    forecaster = open_forecaster(tuple(devices), settings, log)
    return forecaster, forecast_campaign((p.job for p in plan.to_run), forecaster)


def opening_line(plan: RenderPlan, settings: Settings, devices: str) -> str:
    """Return what `render` says of the time ahead, and a line for each row that will not fit.

    Args:
        plan: What is about to run.
        settings: Folders.
        devices: As `--devices` has it.

    Raises:
        DamagedError: If the campaign's log is damaged.
        RefusedError: If `devices` names none.
    """
    from lynx_engine.cli.doctor import choose_devices

    forecaster, ahead = look_ahead(plan, settings, choose_devices(devices))
    # Nobody is sent to calibrate when a run begins: that is what `plan` and `doctor` say.
    lines = [eta_in_words(ahead, forecaster)] if ahead.seconds else []
    lines += warnings_of(forecast_rows(plan, forecaster), ahead)
    return "\n".join(lines)


def forecast_rows(
    plan: RenderPlan, forecaster: Forecaster
) -> list[tuple[Request, int, list[Forecast]]]:
    """Return each kind of row with how many there are, and its forecast on each kind of device."""
    from lynx_engine.forecast import count_requests

    counts = count_requests(planned.job for planned in plan.to_run)
    alike = {(d.name, d.total_bytes): d for d in reversed(forecaster.devices)}
    devices = list(reversed(alike.values()))
    return [(r, n, [forecaster.of(r, d) for d in devices]) for r, n in counts.items()]


def table_rows(
    kinds: list[tuple[Request, int, list[Forecast]]],
) -> Iterable[tuple[str, ...]]:
    """Return the cells of `plan`'s table of forecasts."""
    from lynx_engine.cli.doctor import tier_in_words
    from lynx_engine.words import duration_in_words

    for request, count, forecasts in kinds:
        shape = f"{request.frames} x {request.size}, {request.steps} steps"
        shape += f", {speed}" if (speed := request.extras.speed) != EXACT else ""
        for f in forecasts:
            peak = f"{f.choice.estimate.peak_bytes / _GIB:.1f}" if f.choice else "-"
            clip = duration_in_words(f.seconds) if f.seconds is not None else "?"
            told = f"does not fit: {f.why}" if f.why else f.source
            cells = (request.variant, shape, str(count), f.device.device, tier_in_words(f))
            yield (*cells, peak, "-" if f.why else clip, told)


def eta_in_words(campaign: CampaignForecast, forecaster: Forecaster) -> str:
    """Return when a plan will be through, as `ready in about 3 h 20 min on cuda:0`, or ""."""
    from lynx_engine.words import duration_in_words

    if not campaign.seconds:
        return campaign.advice
    where = ", ".join(device.device for device in forecaster.devices)
    words = f"ready in about {duration_in_words(campaign.seconds)} on {where}"
    if campaign.gpu_seconds:
        words += f", {campaign.gpu_seconds / 3600:.1f} GPU-hours"
    return words


def warnings_of(
    kinds: list[tuple[Request, int, list[Forecast]]], campaign: CampaignForecast
) -> Iterable[str]:
    """Return a line for each kind of row that no device here can render."""
    for request, count, _ in kinds:
        if request in campaign.homeless:
            shape = f"{request.frames} frames of {request.size}"
            rows = f"{count} row{'s' * (count > 1)} of {request.variant} ({shape})"
            fit = "fit" if count > 1 else "fits"
            yield (
                f"warning: {rows} {fit} no device here: {campaign.homeless[request]} "
                "It may fit on a cluster (--cluster)."
            )


def campaign_as_json(
    kinds: list[tuple[Request, int, list[Forecast]]], campaign: CampaignForecast
) -> dict[str, object]:
    """Return a plan's forecast in plain values; unknown ones are null."""
    from lynx_engine.cli.doctor import forecast_as_json

    hours = None if campaign.gpu_seconds is None else campaign.gpu_seconds / 3600
    return {
        "eta_s": campaign.seconds,
        "device_s": campaign.device_seconds,
        "gpu_hours": hours,
        "advice": campaign.advice,
        "kinds": [
            {
                "frames": request.frames,
                "size": request.size,
                "steps": request.steps,
                "speed": request.extras.speed,
                "rows": count,
                "on": [forecast_as_json(request.variant, forecast) for forecast in forecasts],
            }
            for request, count, forecasts in kinds
        ],
    }
