"""What a plan will need and when it will be through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from lynx_engine.capacity.calibration import Calibration, Calibrations
from lynx_engine.capacity.cost import Speeds
from lynx_engine.capacity.machine import Device
from lynx_engine.capacity.memory import GIB
from lynx_engine.forecast import (
    Forecaster,
    Past,
    count_requests,
    forecast_campaign,
    measured_past,
    request_of,
)
from lynx_engine.jobs import Lora
from lynx_engine.settings import Settings
from lynx_engine.variants import get_variant
from lynx_engine.variants.dimensions import architecture_of
from tests.support.pace import Stopwatch
from tests.support.renders import make_job

H200 = Device("cuda:0", "NVIDIA H200", 140 * GIB, 139 * GIB, "9.0", "570")
CARD = Device("cuda:1", "NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB, "8.9", "570")
SMALL = Device("cuda:2", "Small", 4 * GIB, 4 * GIB, "8.0", "570")
FULL = make_job("lynx_full")


def calibration(device: Device, variant: str, block_s: float) -> Calibration:
    architecture = architecture_of(get_variant(variant), None)
    assert architecture is not None
    speeds = Speeds(1e15, 5e10, (block_s, 0.0, 0.0), (0.0, 0.0), 0.0, 0.0, (0.0, 0.0))
    when = "2026-01-01T00:00:00+00:00"
    key = architecture.key
    return Calibration(device.name, "2.13.0", "native", "bfloat16", key, 1, when, speeds)


def forecaster(
    *devices: Device, entries: tuple[Calibration, ...] = (), past: Past | None = None
) -> Forecaster:
    return Forecaster(
        devices,
        settings=Settings(models=Path("nowhere"), cache=Path("nowhere")),
        calibrations=Calibrations(entries),
        torch_version="2.13.0",
        past=past,
    )


def test_a_device_that_was_calibrated_has_a_time() -> None:
    told = forecaster(H200, entries=(calibration(H200, "lynx_full", 0.05),))
    forecast = told.of(request_of(FULL), H200)
    assert forecast.source == "calibrated"
    # 50 steps, 3 passes, 40 blocks; two reference passes; transfers of a second or so.
    assert forecast.seconds == pytest.approx(50 * 3 * 40 * 0.05 + 2 * 40 * 0.05, rel=0.01)


def test_what_was_measured_goes_before_what_was_calibrated() -> None:
    past = Past(clip_s={("lynx_full", 81, "832x480", 50, "exact", H200.name): 123.0})
    told = forecaster(H200, entries=(calibration(H200, "lynx_full", 0.05),), past=past)
    forecast = told.of(request_of(FULL), H200)
    assert (forecast.seconds, forecast.source) == (123.0, "measured")


def test_without_a_calibration_the_campaign_says_how_to_get_one() -> None:
    campaign = forecast_campaign([FULL], forecaster(H200))
    assert campaign.seconds is None
    assert campaign.advice == "no calibration: run lynx-engine doctor --calibrate"


def test_each_device_has_its_own_tier() -> None:
    told = forecaster(H200, CARD)
    tiers = [told.of(request_of(FULL), device).choice for device in (H200, CARD)]
    assert [choice.placement.tier for choice in tiers if choice] == ["resident", "balanced"]


def test_rows_that_fit_no_device_are_named_with_the_bytes_they_lack() -> None:
    campaign = forecast_campaign([FULL], forecaster(SMALL))
    (why,) = campaign.homeless.values()
    assert "GiB is free" in why
    assert campaign.advice == ""


def test_rows_go_to_the_devices_they_fit() -> None:
    entries = (calibration(H200, "lynx_full", 0.05),)
    campaign = forecast_campaign([FULL] * 2, forecaster(H200, SMALL, entries=entries))
    assert campaign.homeless == {}
    assert campaign.seconds == campaign.device_seconds


def test_two_devices_take_half_the_time_and_the_same_gpu_hours() -> None:
    past = Past(
        clip_s={("lynx_full", 81, "832x480", 50, "exact", H200.name): 100.0},
        load_s={("lynx_full", H200.name): 20.0},
    )
    twin = replace(H200, device="cuda:1")
    rows = [replace(FULL, seed=n) for n in range(10)]
    one = forecast_campaign(rows, forecaster(H200, past=past))
    two = forecast_campaign(rows, forecaster(H200, twin, past=past))
    assert (one.seconds, one.gpu_seconds) == (1020.0, 1020.0)
    assert (two.seconds, two.gpu_seconds) == (520.0, 1040.0)


def test_each_variant_is_loaded_once_a_device() -> None:
    shape = (81, "832x480", 50, "exact", H200.name)
    past = Past(
        clip_s={("lynx_full", *shape): 100.0, ("wan", *shape): 50.0},
        load_s={("lynx_full", H200.name): 20.0, ("wan", H200.name): 10.0},
    )
    rows = [FULL, make_job("wan"), replace(FULL, seed=1), replace(make_job("wan"), seed=1)]
    rows = [replace(row, frames=81) for row in rows]
    assert forecast_campaign(rows, forecaster(H200, past=past)).seconds == 20 + 200 + 10 + 100


def test_the_past_is_the_median_of_good_rows_without_their_loads() -> None:
    stages = {"text_s": 0.0, "subject_s": 1.0, "denoise_s": 5.0, "decode_s": 2.0}
    facts = {
        "variant": "tiny",
        "frames": 9,
        "size": "64x64",
        "steps": 4,
        "speed": "exact",
        "device_name": "cpu",
    }
    good = {**facts, **stages, "load_s": 0.0, "status": "rendered"}
    log = pl.DataFrame(
        [
            {**good, "load_s": 30.0},
            good,
            {**good, "denoise_s": 50.0},
            {**good, "denoise_s": 999.0, "status": "failed"},
        ]
    )
    past = measured_past(log)
    assert past.clip_s == {("tiny", 9, "64x64", 4, "exact", "cpu"): 8.0}
    assert past.load_s == {("tiny", "cpu"): 30.0}
    assert measured_past(pl.DataFrame()) == Past()


def test_a_distilled_row_is_one_pass_a_step_and_a_lora_is_counted() -> None:
    told = forecaster(H200, entries=(calibration(H200, "lynx_full", 0.05),))
    lora = Lora("d", 1.0, Path("a"), 300_000_000)
    distilled = replace(FULL, steps=8, speed="distilled", loras=(lora,))
    assert count_requests([FULL, distilled, FULL]) == {
        request_of(FULL): 2,
        request_of(distilled): 1,
    }
    forecast = told.of(request_of(distilled), H200)
    factors = 2 * 32760 * 300_000_000 / 1e15
    # Eight passes and one of the reference; transfers of a second or so.
    assert forecast.seconds == pytest.approx(8 * (40 * 0.05 + factors) + 40 * 0.05, abs=1.5)
    assert forecast.choice is not None
    assert forecast.choice.estimate.phases["denoise"]["LoRAs"] == 600_000_000


def test_a_measured_time_holds_for_its_speed_only() -> None:
    past = Past(clip_s={("lynx_full", 81, "832x480", 50, "exact", H200.name): 123.0})
    told = forecaster(H200, past=past)
    cached = replace(FULL, speed="cache:first-block-0.05")
    assert told.of(request_of(FULL), H200).seconds == 123.0
    assert told.of(request_of(cached), H200).seconds is None


def test_a_hundred_thousand_rows_are_forecast_at_once() -> None:

    past = Past(clip_s={("lynx_full", 81, "832x480", 50, "exact", H200.name): 100.0})
    rows = [FULL] * 100_000
    watch = Stopwatch()
    assert forecast_campaign(rows, forecaster(H200, past=past)).seconds
    assert watch.idle_s() < 2.0
