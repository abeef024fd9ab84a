"""The dense token losses: padding, vocabulary, accumulation, end points and what their papers promise."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from kd_lightning.losses.akl import AKLLoss, akl_loss
from kd_lightning.losses.forward_kl import ForwardKLLoss, forward_kl_loss
from kd_lightning.losses.jsd import JSDLoss, jsd_loss
from kd_lightning.losses.reverse_kl import ReverseKLLoss, reverse_kl_loss
from kd_lightning.losses.skew_kl import (
    SkewForwardKLLoss,
    SkewReverseKLLoss,
    skew_forward_kl_loss,
    skew_reverse_kl_loss,
)
from kd_lightning.losses.symmetric_kl import SymmetricKLLoss, symmetric_kl_loss
from kd_lightning.losses.taid import TAIDLoss
from kd_lightning.losses.tvd import TVDLoss, tvd_loss

DENSE = [
    JSDLoss(0.3),
    JSDLoss(0.0),
    JSDLoss(1.0),
    ForwardKLLoss(),
    ReverseKLLoss(),
    SymmetricKLLoss(),
    TVDLoss(),
    SkewForwardKLLoss(),
    SkewReverseKLLoss(),
    AKLLoss(),
    TAIDLoss(subtract_entropy=True),
]
dense = pytest.mark.parametrize("loss", [copy.deepcopy(d).eval() for d in DENSE], ids=lambda d: type(d).__name__)


def logits(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) * 2 for _ in range(2))
    return student, teacher


def pad_tokens(x: torch.Tensor, left: int, right: int, fill: float = 7.0) -> torch.Tensor:
    """Padding along the tokens (dimension 1) with a value that would show."""
    shape = list(x.shape)
    parts = [x.new_full((shape[0], n, *shape[2:]), fill) for n in (left, right)]
    return torch.cat([parts[0], x, parts[1]], dim=1)


@dense
@pytest.mark.parametrize(("left", "right"), [(3, 0), (0, 3), (1, 2)])
def test_padding_does_not_change_the_loss(loss, left, right):
    student, teacher = logits(2, 4, 6)
    mask = pad_tokens(torch.ones(2, 4), left, right, fill=0.0).bool()
    padded = loss(pad_tokens(student, left, right), pad_tokens(teacher, left, right, fill=-3.0).roll(1, -1), mask)
    expected = loss(student, teacher.roll(1, -1))
    torch.testing.assert_close(padded, expected)
    # One position off at either end, and the value is another.
    assert not torch.isclose(
        loss(pad_tokens(student, left, right), pad_tokens(teacher, left, right).roll(1, -1), mask.roll(1, 1)), expected
    )


@dense
def test_accumulation_over_uneven_lengths_is_one_batch(loss):
    student, teacher = logits(4, 5, 6)
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 2])[:, None]
    parts = [loss(student[i : i + 2], teacher[i : i + 2], mask[i : i + 2]) * mask[i : i + 2].sum() for i in (0, 2)]
    torch.testing.assert_close(sum(parts) / mask.sum(), loss(student, teacher, mask))


@dense
@pytest.mark.parametrize("side", ["both", "student", "teacher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entries_at_minus_infinity_are_outside_the_vocabulary(loss, side, dtype):
    student, teacher = (x.to(dtype) for x in logits(2, 3, 6))
    expected = loss(student, teacher)
    wide = [torch.cat([x, x.new_full((2, 3, 2), 5.0)], -1) for x in (student, teacher)]
    for x, name in zip(wide, ("student", "teacher"), strict=True):
        if side in ("both", name):
            x[..., 6:] = -math.inf
    wide[0].requires_grad_()
    value = loss(*wide)
    value.backward()
    torch.testing.assert_close(value, expected)
    assert torch.isfinite(wide[0].grad).all()
    assert (wide[0].grad[..., 6:] == 0).all()


@dense
def test_never_negative_and_finite_on_saturated_logits(loss):
    for scale in (1, 10, 1000):
        student, teacher = (x.float() * scale for x in logits(3, 4, 6))
        student.requires_grad_()
        value = loss(student, teacher)
        value.backward()
        assert value >= 0
        assert torch.isfinite(student.grad).all()


@dense
def test_different_vocabularies_are_refused_with_the_way_out(loss):
    with pytest.raises(ValueError, match=r"-inf.*uld"):
        loss(torch.zeros(1, 2, 5), torch.zeros(1, 2, 6))


@dense
def test_a_mask_of_another_shape_is_refused(loss):
    with pytest.raises(ValueError, match="mask"):
        loss(torch.zeros(2, 3, 5), torch.zeros(2, 3, 5), torch.ones(3).bool())


def test_jsd_end_points_are_forward_and_reverse_kl_and_the_middle_bends_towards_them():
    student, teacher = logits(2, 3, 5)
    forward, reverse = forward_kl_loss(student, teacher), reverse_kl_loss(student, teacher)
    torch.testing.assert_close(jsd_loss(student, teacher, beta=0.0), forward)
    torch.testing.assert_close(jsd_loss(student, teacher, beta=1.0), reverse)
    torch.testing.assert_close(jsd_loss(student, teacher, beta=1e-6) / 1e-6, forward, rtol=1e-4, atol=0)
    torch.testing.assert_close(jsd_loss(student, teacher, beta=1 - 1e-6) / 1e-6, reverse, rtol=1e-4, atol=0)
    # Exchanging the roles is exchanging the weights.
    torch.testing.assert_close(jsd_loss(student, teacher, beta=0.3), jsd_loss(teacher, student, beta=0.7))


def test_skewed_divergences_start_at_the_plain_ones_and_are_bounded():
    student, teacher = logits(2, 3, 5)
    torch.testing.assert_close(skew_forward_kl_loss(student, teacher, skew=0.0), forward_kl_loss(student, teacher))
    torch.testing.assert_close(skew_reverse_kl_loss(student, teacher, skew=0.0), reverse_kl_loss(student, teacher))
    for skewed in (skew_forward_kl_loss, skew_reverse_kl_loss):
        assert skewed(student * 1e3, teacher * 1e3, skew=0.25) <= math.log(4) + 1e-9
        assert skewed(student, teacher, skew=1.0).abs() < 1e-12


def test_total_variation_is_the_mass_that_must_move():
    student, teacher = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.3, 0.5]])
    torch.testing.assert_close(tvd_loss(student.log(), teacher.log()), torch.tensor(0.3))


def test_symmetric_is_the_weighted_sum():
    student, teacher = logits(2, 3, 5)
    expected = 0.2 * forward_kl_loss(student, teacher) + 0.8 * reverse_kl_loss(student, teacher)
    torch.testing.assert_close(symmetric_kl_loss(student, teacher, reverse_weight=0.8), expected)


@pytest.mark.parametrize("loss", [forward_kl_loss, reverse_kl_loss, jsd_loss, akl_loss, skew_forward_kl_loss])
def test_the_temperature_divides_the_logits_and_its_square_is_optional(loss):
    student, teacher = logits(2, 3, 5)
    plain = loss(student / 3, teacher / 3)
    torch.testing.assert_close(loss(student, teacher, temperature=3.0), 9 * plain)
    torch.testing.assert_close(loss(student, teacher, temperature=3.0, scale_by_temperature=False), plain)


def test_the_entropy_changes_the_value_only():
    student, teacher = logits(2, 3, 5)
    student.requires_grad_()
    entropy = torch.distributions.Categorical(logits=teacher).entropy().mean()
    with_entropy = forward_kl_loss(student, teacher, subtract_entropy=False)
    without = forward_kl_loss(student, teacher)
    torch.testing.assert_close(with_entropy - without, entropy)
    gradients = [torch.autograd.grad(x, student)[0] for x in (with_entropy, without)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "make", [lambda: jsd_loss(*logits(1, 2), beta=1.5), lambda: akl_loss(*logits(1, 2), head_mass=-1)]
)
def test_weights_outside_the_unit_interval_are_refused(make):
    with pytest.raises(ValueError, match="between 0 and 1"):
        make()


def test_akl_weighs_forward_kl_by_the_gap_of_the_head():
    teacher, student = torch.tensor([[0.45, 0.3, 0.15, 0.1]]), torch.tensor([[0.4, 0.1, 0.2, 0.3]])
    # Head mass 0.5 holds the first entry only: its gap is 0.05 of 0.5 in all.
    forward, reverse = (f(student.log(), teacher.log()) for f in (forward_kl_loss, reverse_kl_loss))
    torch.testing.assert_close(akl_loss(student.log(), teacher.log()), 0.1 * forward + 0.9 * reverse)
    # Head mass 0.8 holds two: 0.25 of 0.5.
    torch.testing.assert_close(akl_loss(student.log(), teacher.log(), head_mass=0.8), 0.5 * forward + 0.5 * reverse)


@pytest.mark.parametrize(
    ("loss", "limit"), [(forward_kl_loss, 2.5), (reverse_kl_loss, 3.5), (jsd_loss, 3.5), (akl_loss, 4.5)]
)
def test_little_is_kept_for_the_backward_pass(loss, limit):
    student, teacher = logits(2, 8, 500)
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss(student.requires_grad_(), teacher, torch.ones(2, 8))
    assert sum(kept.values()) <= limit * student.untyped_storage().nbytes()
