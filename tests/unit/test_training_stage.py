"""Stages of training: resumable to the bit, and losses with a closed form."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from lynx_engine.training.faces import contrast
from lynx_engine.training.stage import Losses, Stage, train


def make_stage(model: nn.Module, steps: int, *, stop_at: int | None = None) -> Stage:
    def losses(step: int) -> Losses:
        if step == stop_at:
            raise KeyboardInterrupt
        numbers = torch.Generator().manual_seed(step)
        batch = torch.randn(8, 4, generator=numbers)
        return {"total": (model(batch) - batch.sum(dim=1, keepdim=True)).square().mean()}

    return Stage("sum", steps, 1e-2, losses)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def test_stage_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, halves = make_model(), make_model()
    assert train(whole, make_stage(whole, 60), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(halves, make_stage(halves, 60, stop_at=37), tmp_path / "halves", save_every_s=0)
    again = make_model()
    assert train(again, make_stage(again, 60), tmp_path / "halves")

    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_stage_learns_and_leaves_its_curve(tmp_path: Path) -> None:
    model = make_model()
    train(model, make_stage(model, 400), tmp_path)

    lines = [json.loads(line) for line in (tmp_path / "sum.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(20, 401, 20))
    assert lines[-1]["total"] < lines[0]["total"] / 10


def test_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    model = make_model()
    train(model, make_stage(model, 1), tmp_path)
    other = nn.Sequential(make_model())
    with pytest.raises(ValueError, match=r"sum\.pt is of another model"):
        train(other, make_stage(other, 1), tmp_path)


def test_contrast_of_embeddings_that_cannot_be_told_apart_is_that_of_a_guess() -> None:
    alike = torch.nn.functional.normalize(torch.ones(6, 8), dim=1)
    owners = torch.tensor([0, 0, 1, 1, 2, 2])

    # One right among five others, all equally near.
    assert contrast(alike, owners).item() == pytest.approx(math.log(5), abs=1e-5)


def test_contrast_of_people_who_stand_apart_is_nothing() -> None:
    apart = torch.eye(3).repeat_interleave(2, dim=0)

    assert contrast(apart, torch.tensor([0, 0, 1, 1, 2, 2])).item() < 1e-4
