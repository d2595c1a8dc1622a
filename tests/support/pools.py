"""Pools that follow a script, for failures that no real device gives on request."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import numpy as np

from lynx_engine.identity.embed import SubjectFace
from lynx_engine.jobs import PlannedJob, RenderJob
from lynx_engine.orders import ClipDraft, FaceRequest, RenderTask
from lynx_engine.rendering import OnStage
from lynx_engine.results import Findings, Likeness, RenderResult
from tests.support.jobs import make_sleeper_job, rendered


def sleeper_task(folder: Path, prompt: str, **changes: object) -> RenderTask:
    """Return a row of the null renderer with a draft in `folder`."""
    job = make_sleeper_job(prompt, **changes)
    return RenderTask(job, None, folder / f"{job.job_id[:12]}.mp4")


def ignore(_stage: str, _done: int, _total: int) -> None:
    """Take no notice of progress."""


@dataclass
class ScriptedPool:
    """Writes a few bytes as each clip, except where `faults` says what happens instead.

    Attributes:
        faults: Seed -> what happens instead of rendering.
        likeness: Rendered seed -> what scoring its clip finds.
        on_render: Called before each rendering with the device; may raise.
        on_face: Called while a face is embedded.
        on_load: Called while a model is loaded.
    """

    faults: Mapping[int, Callable[[RenderTask], NoReturn]] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu",)
    faces: list[FaceRequest] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    abandoned: bool = False
    loads: list[tuple[str, str, str]] = field(default_factory=list)
    renders: list[tuple[str, int]] = field(default_factory=list)
    on_render: Callable[[str, RenderTask], None] = lambda *_: None
    on_face: Callable[[str], None] = lambda _: None
    on_load: Callable[[str], None] = lambda _: None
    likeness: Mapping[int, Likeness | None] = field(default_factory=dict)
    _busy: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self, device: str, variant: str, precision: str) -> None:
        with self._alone_on(device):
            self.loads.append((device, variant, precision))
            self.on_load(device)

    def embed_face(self, device: str, request: FaceRequest) -> SubjectFace:
        with self._alone_on(device):
            self.faces.append(request)
            self.on_face(device)
        return SubjectFace(
            landmarks=request.landmarks,
            embedding=np.zeros(512, np.float32),
            reference_crop=np.zeros((256, 256, 3), np.uint8),
        )

    def render(self, device: str, task: RenderTask, on_stage: OnStage) -> ClipDraft:
        self.renders.append((device, task.job.seed))
        self.seeds.append(task.job.seed)
        on_stage("denoise", 1, 4)
        with self._alone_on(device):
            self.on_render(device, task)
            if task.job.seed in self.faults:
                self.faults[task.job.seed](task)
        content = b"clip of seed %d" % task.job.seed
        task.draft.write_bytes(content)
        result = rendered(task.job)
        digest = hashlib.sha256(content).hexdigest()
        facts = replace(result.facts, bytes=len(content), digest=digest)
        findings = Findings(likeness=self.likeness.get(task.job.seed))
        return ClipDraft(task.draft, facts, result.worker, datetime.now(UTC), findings)

    def abandon(self) -> None:
        self.abandoned = True

    @contextmanager
    def _alone_on(self, device: str) -> Generator[None]:
        """Hold the caller to the promise of one call at a time for each device."""
        with self._lock:
            assert device not in self._busy, f"two calls at a time for {device}"
            self._busy.add(device)
        try:
            yield
        finally:
            with self._lock:
                self._busy.remove(device)


@dataclass
class Watcher:
    """Remembers what it was told."""

    stages: list[tuple[int, str, int, int]] = field(default_factory=list)
    results: dict[int, RenderResult] = field(default_factory=dict)
    drains: list[float] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def serving(self, address: str) -> None:
        self.addresses.append(address)

    def stage(self, job: RenderJob, name: str, done: int, total: int) -> None:
        self.stages.append((job.seed, name, done, total))

    def finished(self, planned: PlannedJob, result: RenderResult) -> None:
        self.results[planned.job.seed] = result

    def stopping(self, drain_s: float) -> None:
        self.drains.append(drain_s)
