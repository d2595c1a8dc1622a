"""The same campaign, stopped again and again, gives the clips of one that was left alone."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from lynx_engine.media.video import decode_clip
from lynx_engine.provenance.store import read_parts
from tests.faults.harness import RUN_S, Night, audit, describe, orphans_after, size

Figure = Callable[[str], None]

ROWS = ["sleep=0.3"] * size(quick=24, full=160)


def frames_of(night: Night) -> dict[str, str]:
    return {p.name: decode_clip(p).frames_digest for p in (night.outputs / "clips").iterdir()}


def test_campaign_interrupted_many_times_gives_the_clips_of_an_uninterrupted_one(
    tmp_path: Path, figure: Figure
) -> None:
    dice = random.Random(3)
    wanted = size(quick=4, full=20)
    whole = Night(tmp_path / "whole", ROWS)
    assert whole.finish()["exit_code"] == 0

    night = Night(tmp_path / "broken", ROWS)
    stops = 0
    ways: list[tuple[signal.Signals, int]] = [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGKILL, -9),
    ]
    while stops < wanted:
        with night.start() as process:
            # Before the first row, among the rows, with rows in flight.
            time.sleep(dice.uniform(0.3, 3.0))
            number, code = ways[stops % 3]
            if process.poll() is None:
                process.send_signal(number)
                stops += 1
                # Every other polite stop is asked for twice: the rows in flight end at once.
                if number != signal.SIGKILL and stops % 2:
                    time.sleep(0.1)
                    process.send_signal(number)
            process.communicate(timeout=RUN_S)
            assert process.returncode in {code, 0, -number}
        assert orphans_after(night.folder) == 0
        if len(list((night.outputs / "clips").glob("*"))) == len(ROWS):
            break
    assert night.finish()["exit_code"] == 0
    same = frames_of(night) == frames_of(whole)
    found = audit(night)
    figure(describe("interrupted", stops=stops, **found.figures(), identical=str(same).lower()))
    assert stops == wanted
    assert same
    assert found.is_clean
    charged = read_parts(night.outputs / "provenance")
    assert set(charged["status"]) <= {"rendered", "interrupted"}


def test_first_signal_lets_the_row_finish_and_the_second_ends_it_at_once(tmp_path: Path) -> None:
    for folder, signals, limit_s in (("once", 1, 25.0), ("twice", 2, 8.0)):
        night = Night(tmp_path / folder, ["sleep=6"] * 6)
        with night.start() as process:
            deadline = time.monotonic() + 60
            while not _in_flight(night) and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(1)
            for _ in range(signals):
                process.send_signal(signal.SIGTERM)
                time.sleep(0.3)
            stopped = time.monotonic()
            out, err = process.communicate(timeout=RUN_S)
        assert process.returncode == 143, err
        assert time.monotonic() - stopped < limit_s
        told = json.loads(out)
        finished = 2 if signals == 1 else 0
        assert (told["rendered"], told["interrupted"]) == (finished, 6 - finished)
        assert orphans_after(night.folder) == 0
        statuses = read_parts(night.outputs / "provenance")["status"].to_list()
        assert statuses == ["rendered"] * finished + ["interrupted"] * (2 - finished)


def _in_flight(night: Night) -> bool:
    return len(list(night.outputs.glob(".drafts/*.mp4"))) == 2


def test_second_run_of_a_campaign_renders_nothing(tmp_path: Path, figure: Figure) -> None:
    night = Night(tmp_path / "held", ["sleep=0.5"] * 8)
    with night.start() as first:
        deadline = time.monotonic() + 60
        while not _in_flight(night) and time.monotonic() < deadline:
            time.sleep(0.02)
        with night.start() as second:
            _, err = second.communicate(timeout=RUN_S)
        assert second.returncode == 1
        assert f"is being rendered by process {first.pid} on " in err
        first.communicate(timeout=RUN_S)
    assert first.returncode == 0
    figure(describe("second-run", **audit(night).figures()))
    assert audit(night).is_clean


def test_mutant_without_the_lock_renders_rows_twice(tmp_path: Path, figure: Figure) -> None:
    night = Night(tmp_path / "free", ["sleep=0.5"] * 8)
    runs = [night.start("--mutant", "lock") for _ in range(2)]
    for run in runs:
        run.communicate(timeout=RUN_S)
    broken = any(run.returncode for run in runs) or not audit(night).is_clean
    assert broken
    figure("MUTANT lock red")
