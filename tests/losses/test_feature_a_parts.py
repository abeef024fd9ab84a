"""What is particular to FSP, AB, FT, OFD and ReviewKD."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kd_lightning.losses.ab import ABLoss, ab_loss
from kd_lightning.losses.fsp import FSPLoss
from kd_lightning.losses.ft import FTLoss, ft_loss
from kd_lightning.losses.ofd import OFDLoss, margin_from_norm, ofd_loss
from kd_lightning.losses.reviewkd import ReviewKDLoss, reviewkd_loss
from tests.losses.test_feature_a import build, rand

# -- FSP, AB -----------------------------------------------------------------------------------------------------


def test_equal_shapes_need_no_connector():
    maps = [rand(2, 3, 8, 8), rand(2, 5, 4, 4)]
    for kind in (FSPLoss, ABLoss):
        assert not list(build(kind(), maps, maps).parameters())


def test_activation_boundary_asks_for_the_side_and_the_margin():
    teacher = torch.tensor([[[[1.0, 0.0, -1.0]]]])  # zero counts as inactive
    right = torch.tensor([[[[1.5, -1.0, -3.0]]]])
    assert ab_loss(right, teacher).item() == 0.0
    torch.testing.assert_close(ab_loss(-right, teacher, scale=1.0), torch.tensor(2.5**2 + 2**2 + 4**2))
    torch.testing.assert_close(  # an earlier stage counts half
        ab_loss([-right, right], [teacher, teacher], scale=1.0), torch.tensor((2.5**2 + 2**2 + 4**2) / 2)
    )


# -- FT ----------------------------------------------------------------------------------------------------------


def test_factor_transfer_and_reconstruction_train_different_parameters():
    student, teacher = rand(4, 3, 4, 4), rand(4, 6, 4, 4, seed=1)
    loss = build(FTLoss(reconstruction=0.5), student, teacher)
    loss(student, teacher).backward()
    joint = [p.grad.clone() for p in loss.paraphraser.parameters()]
    loss.zero_grad()
    (0.5 * F.l1_loss(loss.paraphraser(teacher)[1], teacher)).backward()
    for ours, alone in zip(joint, (p.grad for p in loss.paraphraser.parameters()), strict=True):
        torch.testing.assert_close(ours, alone)


def test_frozen_paraphraser_is_not_reconstructed():
    student, teacher = rand(4, 3, 4, 4), rand(4, 6, 4, 4, seed=1)
    loss = build(FTLoss(reconstruction=0.5), student, teacher)
    both = loss(student, teacher)
    loss.paraphraser.requires_grad_(False)
    transfer = loss(student, teacher)
    torch.testing.assert_close(transfer, ft_loss(loss.translator(student), loss.paraphraser(teacher)[0]))
    assert transfer < both


def test_paraphraser_learns_to_reconstruct():
    student, teacher = rand(8, 3, 4, 4), rand(8, 4, 4, 4, seed=1).relu()
    loss = build(FTLoss(rate=1.0), student, teacher)
    optimizer = torch.optim.Adam(loss.paraphraser.parameters(), 1e-2)
    errors = []
    for _ in range(60):
        errors.append(F.l1_loss(loss.paraphraser(teacher)[1], teacher).item())
        optimizer.zero_grad()
        (500 * loss(student, teacher)).backward()
        optimizer.step()
    assert errors[-1] < 0.7 * errors[0]


# -- OFD ---------------------------------------------------------------------------------------------------------


def norm(weight: list[float], bias: list[float]) -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(len(weight))
    module.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)}, strict=False)
    return module


def test_margin_is_the_expected_negative_response():
    weight, bias = [1.0, -0.5, 0.2], [0.3, 0.1, -1.0]
    grid = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    expected = []
    for s, m in zip(weight, bias, strict=True):
        x = m + abs(s) * grid
        density = torch.exp(-grid.square() / 2) * (x < 0)
        expected.append((x * density).sum() / density.sum())
    torch.testing.assert_close(margin_from_norm(norm(weight, bias)).double(), torch.stack(expected), rtol=1e-3, atol=0)


def test_margin_of_almost_never_negative_and_of_constant_channels():
    margin = margin_from_norm(norm([0.7, 0.0, 0.0, 0.0], [6.0, 2.0, -2.0, 0.0]))
    torch.testing.assert_close(margin, torch.tensor([-2.1, 0.0, -2.0, 0.0]))


def test_margin_of_a_norm_without_affine_parameters():
    torch.testing.assert_close(
        margin_from_norm(nn.BatchNorm2d(2, affine=False)), torch.full((2,), -math.sqrt(2 / math.pi))
    )


def test_measured_margin_is_the_one_of_the_norm_on_what_the_norm_gives():
    module = norm([1.0, 0.5], [0.3, -0.2])
    teacher = module(rand(64, 2, 32, 32))
    student = rand(64, 2, 32, 32, seed=1)
    measured, read = ofd_loss(student, teacher), ofd_loss(student, teacher, margin_from_norm(module))
    torch.testing.assert_close(measured, read, rtol=1e-2, atol=0)


def test_student_below_a_negative_target_costs_nothing():
    teacher, margin = torch.full((1, 1, 1, 1), -0.5), torch.tensor([-1.0])
    below, above = torch.full((1, 1, 1, 1), -0.7), torch.full((1, 1, 1, 1), 0.5)
    assert ofd_loss(below, teacher, margin).item() == 0.0
    assert ofd_loss(above, teacher, margin).item() == 1.0
    assert ofd_loss(above.expand(4, 1, 1, 1), teacher.expand(4, 1, 1, 1), margin, reduction="sum").item() == 4.0


def test_margins_come_from_the_norms_and_travel_with_the_weights():
    student, teacher = [rand(2, 3, 4, 4)], [rand(2, 2, 4, 4, seed=1)]
    first = build(OFDLoss(), student, teacher, [norm([1.0, 0.5], [0.3, -0.2])])
    second = build(OFDLoss(), student, teacher, norm([1.0, 1.0], [0.0, 0.0]))
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.connectors[0].margin, margin_from_norm(norm([1.0, 0.5], [0.3, -0.2])))
    assert not any("margin" in name for name, _ in first.named_parameters())


@pytest.mark.parametrize(
    ("norms", "message"),
    [
        ([nn.BatchNorm2d(3)], "has 2 channels, its batch norm 3"),
        ([nn.BatchNorm2d(2)] * 2, "2 batch norms in `norms` for 1 maps"),
        ([nn.ReLU()], "a batch norm is needed for the margin, not ReLU"),
    ],
)
def test_norms_that_do_not_fit_are_refused(norms, message):
    with pytest.raises(ValueError, match=message):
        OFDLoss().build([rand(2, 3, 4, 4)], [rand(2, 2, 4, 4)], norms)


# -- ReviewKD ----------------------------------------------------------------------------------------------------


def test_review_fuses_from_the_deepest_level():
    student = [rand(2, 3, 6, 4), rand(2, 5, 3, 2)]
    teacher = [rand(2, 4, 8, 8, seed=1), rand(2, 6, 3, 2, seed=2)]
    loss = build(ReviewKDLoss(), student, teacher).eval()
    first, deepest = loss.fusions
    assert deepest.attention is None
    residual = deepest.reduce(student[1])
    x, up = first.reduce(student[0]), F.interpolate(residual, (6, 4))
    share = torch.sigmoid(first.attention[0](torch.cat([x, up], 1)))
    fused = F.interpolate(x * share[:, :1] + up * share[:, 1:], (8, 8))
    expected = reviewkd_loss([first.project(fused), deepest.project(residual)], teacher)
    torch.testing.assert_close(loss(student, teacher), expected)


@pytest.mark.parametrize(("limit", "width"), [(512, 5), (2, 2)])
def test_review_is_as_wide_as_the_deepest_level_up_to_a_limit(limit, width):
    maps = [rand(2, 3, 4, 4), rand(2, 5)]
    loss = build(ReviewKDLoss(max_hidden=limit), maps, maps)
    assert [f.reduce[0].out_channels for f in loss.fusions] == [width, width]
