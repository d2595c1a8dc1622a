"""Guidance, worked out by hand."""

from __future__ import annotations

import torch

from lynx_engine.diffusion.guidance import IdentityGuidance, TextGuidance

V_U, V_ID, V_FULL = torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([4.0])


def test_three_branches_by_hand() -> None:
    # 1 + 2 (3 - 1) + 5 (4 - 3) = 10
    combined = IdentityGuidance(text=5.0, identity=2.0).combine((V_U, V_ID, V_FULL))
    assert combined.item() == 10.0


def test_two_branches_by_hand() -> None:
    # 1 + 5 (4 - 1) = 16
    assert TextGuidance(text=5.0).combine((V_U, V_FULL)).item() == 16.0


def test_equal_scales_leave_ordinary_guidance() -> None:
    three = IdentityGuidance(text=5.0, identity=5.0).combine((V_U, V_ID, V_FULL))
    assert torch.equal(three, TextGuidance(text=5.0).combine((V_U, V_FULL)))


def test_scale_one_leaves_the_full_branch_alone() -> None:
    assert torch.equal(TextGuidance(text=1.0).combine((V_U, V_FULL)), V_FULL)
    three = IdentityGuidance(text=1.0, identity=1.0).combine((V_U, V_ID, V_FULL))
    assert torch.equal(three, V_FULL)


def test_scale_zero_leaves_the_unconditional_branch_alone() -> None:
    assert torch.equal(IdentityGuidance(text=0.0, identity=0.0).combine((V_U, V_ID, V_FULL)), V_U)
