"""Rows that kill, hang and fail: each by its rule, the others untouched."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lynx_engine.provenance.past import read_history
from lynx_engine.provenance.store import read_parts
from tests.benchmarks.timeline import waits_s
from tests.faults.harness import FULL, RUN_S, Night, audit, describe, orphans_after, size

Figure = Callable[[str], None]

QUICK = {"LYNX_DEADLINE_S": "4", "LYNX_DEADLINE_FLOOR_S": "3"}


def test_every_kind_of_fault_is_charged_by_its_rule_and_the_other_rows_render(
    tmp_path: Path, figure: Figure
) -> None:
    """Good rows stand between the bad ones, as in a real night."""
    faults = ["segfault", "exit", "hang", "hang_with_lock", "exception", "nan", "memory", "io"]
    texts = [text for fault in faults for text in (f"fault={fault}", "sleep=0.1", "sleep=0.2")]
    night = Night(tmp_path, texts, variables=QUICK)
    with night.start() as process:
        out, err = process.communicate(timeout=RUN_S)
    assert process.returncode == 3, err
    told = json.loads(out)
    log = read_parts(night.outputs / "provenance")
    codes = {
        fault: log.filter(log["prompt"] == f"fault={fault}").sort("attempt")["code"].to_list()
        for fault in faults
    }
    died = ["worker_died"] * 2
    assert codes == {
        "segfault": died,
        "exit": died,
        "hang": died,
        "hang_with_lock": died,
        "exception": ["internal"],
        "nan": ["bad_frames"] * 2,
        "memory": ["out_of_memory"],
        "io": ["io"] * 4,
    }
    assert told == {
        "rendered": 2 * len(faults),
        "failed": len(faults),
        "interrupted": 0,
        "adopted": 0,
        "blocked": 0,
        "exit_code": 3,
    }
    found = audit(night)
    orphans = orphans_after(night.folder)
    figure(
        describe(
            "rows-of-every-kind",
            rows=len(texts),
            torn=found.torn,
            mismatch=found.mismatch,
            duplicate=found.duplicate,
            temps=found.temps,
            orphans=orphans,
        )
    )
    assert (found.torn, found.mismatch, found.duplicate, found.temps, orphans) == (0,) * 5
    assert found.lost == 2 * len(faults), "each failed row lacks its clip and its success"


def test_device_that_kills_every_row_is_given_up_and_no_row_is_charged(tmp_path: Path) -> None:
    night = Night(tmp_path, ["fault=exit"] * 5, arguments=("--devices", "cpu"))
    with night.start() as process:
        out, err = process.communicate(timeout=RUN_S)
    assert process.returncode == 5, err
    assert json.loads(out)["interrupted"] == 5
    history = read_history(night.outputs / "provenance")
    assert {past.deaths for past in history.by_job.values()} <= {0, 1}


def test_rows_that_fail_once_come_out_well(tmp_path: Path) -> None:
    kinds = ["segfault", "hang_with_lock", "nan", "io"]
    texts = [f"fault={kind} once={tmp_path}/{kind}" for kind in kinds]
    night = Night(tmp_path / "night", texts, variables=QUICK)
    with night.start() as process:
        out, err = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, err
    assert json.loads(out)["rendered"] == len(kinds)
    log = read_parts(night.outputs / "provenance")
    assert len(log) == 2 * len(kinds)
    assert audit(night).is_clean


def random_rows(count: int, folder: Path, dice: random.Random) -> tuple[list[str], int]:
    """Return rows of which 5 % go wrong, half of these for good."""
    folder.mkdir()
    kinds = ("exit", "segfault", "exception", "nan", "memory", "io")
    rows: list[str] = []
    bad = 0
    for number in range(count):
        if dice.random() < 0.05:
            once = f" once={folder}/{number}" if dice.random() < 0.5 else ""
            kind = dice.choice(kinds)
            rows.append(f"fault={kind}{once}")
            bad += not once or kind in {"exception", "memory"}  # these are not tried again
        else:
            # A row of no length would wait for the processor that encodes the two before it.
            rows.append("sleep=0.05")
    return rows, bad


@pytest.mark.timeout(3600)
def test_thousands_of_rows_of_which_some_fail_all_reach_a_final_state(
    tmp_path: Path, figure: Figure
) -> None:
    count = size(quick=100, full=10_000)
    rows, bad = random_rows(count, tmp_path / "once", random.Random(5))
    night = Night(tmp_path / "night", rows)
    started = time.monotonic()
    peak_mb = 0.0
    with night.start() as process:
        while process.poll() is None:
            peak_mb = max(peak_mb, _resident_mb(process.pid))
            time.sleep(0.5)
        out, err = process.communicate()
    took_s = time.monotonic() - started
    assert process.returncode in {1, 3}, err
    told = json.loads(out)
    log = read_parts(night.outputs / "provenance")
    last = log.unique("job_id", keep="last", maintain_order=True)
    final = last.filter(last["status"].is_in(["rendered", "failed"]))
    wait_ms = 1000 * float(waits_s(log).median())  # type: ignore[arg-type]  # replacements aside
    found = audit(night) if not FULL else None
    again_s, again = _resume(night)
    figure(
        describe(
            "thousands",
            rows=count,
            failed=told["failed"],
            final=len(final),
            lost=count - len(final),
            peak_mb=round(peak_mb),
            seconds=round(took_s),
            wait_ms=round(wait_ms, 1),
            resume_s=round(again_s, 2),
            resumed_rows=again,
        )
    )
    assert len(final) == count
    assert told["failed"] == bad
    assert peak_mb <= 600
    if FULL:
        assert wait_ms <= 10
        assert again_s <= 2
    assert again == 0
    assert found is None or (found.torn, found.mismatch, found.duplicate) == (0, 0, 0)


def _resident_mb(pid: int) -> float:
    try:
        return psutil.Process(pid).memory_info().rss / 1e6
    except psutil.Error:
        return 0.0


def _resume(night: Night) -> tuple[float, int]:
    """Mend every row that can be mended, then time a run that has nothing to do."""
    lines = night.manifest.read_text().splitlines()
    kept = [line for line in lines if "fault=" not in line]
    night.manifest.write_text("\n".join(kept), encoding="utf-8")
    command = Path(os.sys.executable).parent / "lynx-engine"  # type: ignore[attr-defined]
    import subprocess

    started = time.monotonic()
    done = subprocess.run(
        [command, "render", str(night.manifest), "--json"],
        cwd=night.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    took_s = time.monotonic() - started
    assert done.returncode == 0, done.stderr + done.stdout
    return took_s, int(json.loads(done.stdout)["rendered"])
