"""Pools that follow a script, for failures that no real device gives on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NoReturn

import numpy as np

from lynx_engine.identity.embed import SubjectFace
from lynx_engine.jobs import PlannedJob, RenderJob, RenderResult
from lynx_engine.worker import ClipDraft, FaceRequest, OnStage, RenderTask
from tests.support.jobs import rendered


@dataclass
class ScriptedPool:
    """Writes a few bytes as each clip, except where `faults` says what happens instead."""

    faults: Mapping[int, Callable[[RenderTask], NoReturn]] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu",)
    faces: list[FaceRequest] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    abandoned: bool = False

    def embed_face(self, request: FaceRequest) -> SubjectFace:
        self.faces.append(request)
        return SubjectFace(
            landmarks=request.landmarks,
            embedding=np.zeros(512, np.float32),
            reference_crop=np.zeros((256, 256, 3), np.uint8),
        )

    def render(self, task: RenderTask, on_stage: OnStage) -> ClipDraft:
        self.seeds.append(task.job.seed)
        on_stage("denoise", 1, 4)
        if task.job.seed in self.faults:
            self.faults[task.job.seed](task)
        content = b"clip of seed %d" % task.job.seed
        task.draft.write_bytes(content)
        result = rendered(task.job)
        facts = replace(result.facts, bytes=len(content))
        return ClipDraft(task.draft, facts, result.worker, datetime.now(UTC))

    def abandon(self) -> None:
        self.abandoned = True


@dataclass
class Watcher:
    """Remembers what it was told."""

    stages: list[tuple[int, str, int, int]] = field(default_factory=list)
    results: dict[int, RenderResult] = field(default_factory=dict)
    drains: list[float] = field(default_factory=list)

    def stage(self, job: RenderJob, name: str, done: int, total: int) -> None:
        self.stages.append((job.seed, name, done, total))

    def finished(self, planned: PlannedJob, result: RenderResult) -> None:
        self.results[planned.job.seed] = result

    def stopping(self, drain_s: float) -> None:
        self.drains.append(drain_s)
