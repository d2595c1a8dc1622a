"""Starts nights, breaks them, and counts what came of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from lynx_engine.digest import digest_file
from lynx_engine.errors import RowError
from lynx_engine.jobs import RenderJob
from lynx_engine.manifest.read import read_manifest
from lynx_engine.media.video import ClipFormat, decode_clip, encode_clip
from lynx_engine.planning import plan_renders
from lynx_engine.pool.reaper import MARK
from lynx_engine.provenance.store import read_parts
from lynx_engine.settings import load_settings
from lynx_engine.sleeper import draw_pattern
from lynx_engine.survey import gather_facts

ROOT = Path(__file__).parents[2]
FULL = os.environ.get("LYNX_FAULTS") == "full"
"""Whether `make faults` runs: the sizes that are promised, not those of CI."""

RUN_S = 120.0


def size(*, quick: int, full: int) -> int:
    """Return how often to break something."""
    return full if FULL else quick


def describe(name: str, **figures: object) -> str:
    """Return the line that a fault test prints."""
    return " ".join(["FAULT", name, *(f"{key}={value}" for key, value in figures.items())])


@dataclass
class Night:
    """A campaign in a folder of its own, and the process that renders it."""

    folder: Path
    rows: Sequence[str]
    campaign: str = "night"
    arguments: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "lynx.toml").touch()
        lines = [
            f"campaign: {self.campaign}",
            "defaults: {variant: sleeper}",
            "rows:",
            *(f'  - {{text: "{text}", seed: {n}}}' for n, text in enumerate(self.rows)),
        ]
        self.manifest.write_text("\n".join(lines), encoding="utf-8")

    @property
    def manifest(self) -> Path:
        return self.folder / "night.yaml"

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs" / self.campaign

    def start(self, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.faults.night",
                str(self.manifest),
                *self.arguments,
                *more,
            ],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, *more: str, tries: int = 8) -> dict[str, Any]:
        """Run again until every row is rendered, quarantined rows by `--retry`."""
        told: dict[str, Any] = {}
        for _ in range(tries):
            with self.start("--retry", *more) as process:
                out, err = process.communicate(timeout=RUN_S)
            assert process.returncode in {0, 1, 5}, err
            told = json.loads(out)
            if told["exit_code"] == 0:
                break
        return told

    def jobs(self) -> list[RenderJob]:
        settings = load_settings(self.manifest)
        read = read_manifest(self.manifest)
        plan = plan_renders(read, gather_facts(read, settings))
        return [*(p.job for p in plan.to_run), *plan.done, *(h.job for h in plan.held)]


def device_processes(night: int) -> list[psutil.Process]:
    """Return the device processes of a night's process."""
    try:
        children = psutil.Process(night).children()
    except psutil.NoSuchProcess:
        return []
    found: list[psutil.Process] = []
    for child in children:
        try:
            if any("dask_worker" in word for word in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def left_behind(mark_of: Path) -> list[int]:
    """Return the processes of any run in the workspace `mark_of` that are still alive."""
    alive: list[int] = []
    for process in psutil.process_iter():
        try:
            marked = MARK in process.environ()
            if marked and Path(process.cwd()).is_relative_to(mark_of.resolve()):
                alive.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return alive


def orphans_after(mark_of: Path, seconds: float = 2.0) -> int:
    """Return how many processes of a dead run live on after `seconds`."""
    give_up = time.monotonic() + seconds
    while left_behind(mark_of) and time.monotonic() < give_up:
        time.sleep(0.05)
    return len(left_behind(mark_of))


@dataclass(frozen=True)
class Audit:
    """What a campaign's folder holds, counted without the engine's own opinion of it."""

    lost: int
    duplicate: int
    torn: int
    mismatch: int
    temps: int

    def figures(self) -> dict[str, int]:
        return {
            "lost": self.lost,
            "duplicate": self.duplicate,
            "torn": self.torn,
            "mismatch": self.mismatch,
            "temps": self.temps,
        }

    @property
    def is_clean(self) -> bool:
        return not any(self.figures().values())


def audit(night: Night) -> Audit:
    """Compare clips and log with what the manifest asks for."""
    jobs = {job.job_id: job for job in night.jobs()}
    log = read_parts(night.outputs / "provenance")
    rendered = log.filter(log["status"] == "rendered")
    clips = {path.name: path for path in (night.outputs / "clips").iterdir()}
    wanted = {job.clip_name for job in jobs.values()}
    torn = mismatch = 0
    for name, path in clips.items():
        digest, frames_digest = digest_file(path), _decoded(path)
        torn += frames_digest is None
        recorded = rendered.filter(rendered["clip"] == name)
        job = next((job for job in jobs.values() if job.clip_name == name), None)
        mismatch += (
            job is None
            or recorded.is_empty()
            or recorded["clip_digest"][-1] != digest
            or frames_digest != expected_frames(job)
        )
    once = set(rendered["job_id"])
    return Audit(
        lost=len(wanted - set(clips)) + len(set(jobs) - once),
        duplicate=len(rendered) - len(once),
        torn=torn,
        mismatch=mismatch,
        temps=len(list((night.outputs / ".drafts").iterdir()))
        + len(list((night.outputs / "provenance").glob(".*"))),
    )


def _decoded(path: Path) -> str | None:
    try:
        decoded = decode_clip(path)
    except RowError:
        return None
    return decoded.frames_digest if decoded.frames == 5 else None


_EXPECTED: dict[str, str] = {}


def expected_frames(job: RenderJob) -> str:
    """Return the digest of a clip's frames, encoded here and never killed."""
    key = f"{job.seed % 64}"  # all that the pattern depends on at one size
    if key not in _EXPECTED:
        path = _scratch() / f"{key}.mp4"
        encode_clip(
            draw_pattern(job),
            path,
            ClipFormat(job.frames, job.fps, job.size, job.codec, job.crf),
        )
        _EXPECTED[key] = decode_clip(path).frames_digest
    return _EXPECTED[key]


@cache
def _scratch() -> Path:
    import tempfile

    return Path(tempfile.mkdtemp(prefix="lynx-expected-"))


def kill_device(night: int, dice: random.Random) -> bool:
    """Kill one device process of a night; return whether there was one."""
    found = device_processes(night)
    if not found:
        return False
    try:
        dice.choice(found).send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True
