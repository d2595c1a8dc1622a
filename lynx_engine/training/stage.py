"""Runs one stage of training: so many steps, resumable at any of them, its curve on disk.

What a step learns from is drawn from the step's number alone, so that a stage that was stopped
and goes on ends with the numbers of one that was not. It knows no model.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

Losses = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Stage:
    """What is trained, and for how long.

    Attributes:
        name: Its files' name.
        steps: How many optimiser steps make it whole.
        learning_rate: The highest, after a short warm-up; it falls along a cosine to a fiftieth.
        losses: Step number -> the step's losses, 0-dimensional; `total` is what is made less.
        smoothing: Share of the averaged weights that stays in each step (Polyak averaging).
    """

    name: str
    steps: int
    learning_rate: float
    losses: Callable[[int], Losses]
    smoothing: float = 0.999


def train(model: nn.Module, stage: Stage, folder: Path, *, save_every_s: float = 120.0) -> bool:
    """Train until the stage is whole or somebody asks to stop; go on where an earlier call stopped.

    Writes `<name>.pt` (everything needed to go on) and `<name>.jsonl` (a line for every 20 steps:
    step, mean losses, seconds of processor time) into `folder`. Afterwards `model` holds the
    averaged weights.

    Args:
        model: What is trained, in place, on the CPU.
        stage: How.
        folder: Is made if missing.
        save_every_s: Seconds between checkpoints.

    Returns:
        Whether the stage is whole; False after SIGINT or SIGTERM.

    Raises:
        ValueError: If the checkpoint is of another model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(model, stage, folder)
    run.resume()
    saved_at = time.monotonic()
    with _stop_requests() as requests:
        while run.step < stage.steps and not requests:
            run.advance()
            if time.monotonic() - saved_at > save_every_s:
                run.save()
                saved_at = time.monotonic()
    run.save()
    model.load_state_dict(run.averaged)
    return run.step >= stage.steps


class _Run:
    """A stage under way."""

    def __init__(self, model: nn.Module, stage: Stage, folder: Path) -> None:
        self.step = 0
        self.averaged = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self._model = model
        self._stage = stage
        self._checkpoint = folder / f"{stage.name}.pt"
        self._curve = folder / f"{stage.name}.jsonl"
        self._sums: dict[str, float] = {}
        trained = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            trained, lr=stage.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )

    def resume(self) -> None:
        if not self._checkpoint.exists():
            return
        state: dict[str, Any] = torch.load(self._checkpoint, weights_only=True)
        if state["averaged"].keys() != self.averaged.keys():
            raise ValueError(f"{self._checkpoint} is of another model; move it away to begin anew")
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.averaged, self.step = state["averaged"], state["step"]
        logger.info("%s goes on at step %d", self._stage.name, self.step)

    def advance(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._stage.learning_rate * _factor(self.step, self._stage.steps)
        losses = self._stage.losses(self.step)
        self._optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()  # pyright: ignore[reportUnknownMemberType]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        # Early weights are forgotten soon: the average counts as many steps as there were.
        share = min(self._stage.smoothing, (1 + self.step) / (10 + self.step))
        for name, tensor in self._model.state_dict().items():
            if tensor.is_floating_point():
                self.averaged[name].lerp_(tensor, 1 - share)
            else:
                self.averaged[name].copy_(tensor)
        self.step += 1
        self._note(losses)

    def save(self) -> None:
        half = self._checkpoint.with_suffix(".half")
        state = {
            "model": self._model.state_dict(),
            "averaged": self.averaged,
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
        }
        torch.save(state, half)
        half.replace(self._checkpoint)

    def _note(self, losses: Losses) -> None:
        for name, loss in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(loss.detach())
        if self.step % 20:
            return
        line = {name: round(value / 20, 6) for name, value in self._sums.items()}
        self._sums = {}
        with self._curve.open("a", encoding="utf-8") as curve:
            curve.write(
                json.dumps({"step": self.step, **line, "cpu_s": time.process_time()}) + "\n"
            )
        logger.info("%s %d of %d: %s", self._stage.name, self.step, self._stage.steps, line)


def _factor(step: int, steps: int) -> float:
    """Return the learning rate's factor: a warm-up of 2 %, then half a cosine down to 0.02."""
    warm = max(1, steps // 50)
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Yield a list that fills when somebody asks to stop; the step in hand is finished first."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
