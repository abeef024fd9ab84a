"""Response losses without a teacher's logits, on stacked views, or of other outputs than classes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.losses.cross_entropy import cross_entropy_loss
from kd_lightning.losses.cs_kd import CSKDLoss, cs_kd_loss
from kd_lightning.losses.ctkd import CTKDLoss, ctkd_loss
from kd_lightning.losses.kd import kd_loss
from kd_lightning.losses.label_smoothing import virtual_teacher_loss
from kd_lightning.losses.mlkd import MLKDLoss, mlkd_loss
from kd_lightning.losses.multilabel import binary_cross_entropy_loss, multilabel_kd_loss
from kd_lightning.losses.regression import regression_kd_loss, smooth_l1_loss
from kd_lightning.losses.uskd import USKDLoss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def test_mlkd_follows_the_paper_by_default():
    weak_s, strong_s, weak_t, strong_t = (draw(4, 5, seed=i) for i in range(4))
    both = mlkd_loss(weak_s, strong_s, weak_t, strong_t)
    swapped = mlkd_loss(strong_s, weak_s, strong_t, weak_t)
    torch.testing.assert_close(both, swapped)  # both views count alike
    assert not torch.allclose(both, mlkd_loss(weak_s, strong_s, weak_t, strong_t, as_coded=True))
    stacked = MLKDLoss()(torch.cat([weak_s, strong_s]), torch.cat([weak_t, strong_t]))
    torch.testing.assert_close(stacked, both)


def test_mlkd_mask_equals_removing_the_samples():
    tensors = [draw(4, 5, seed=i) for i in range(4)]
    keep = torch.tensor([True, False, True, True])
    tensors[0][1] = torch.nan
    torch.testing.assert_close(mlkd_loss(*tensors, keep), mlkd_loss(*(x[keep] for x in tensors)))


@pytest.mark.parametrize(("module", "arguments"), [(MLKDLoss(), 2), (CSKDLoss(), 1)])
def test_a_batch_that_is_not_stacked_is_refused(module: torch.nn.Module, arguments: int):
    with pytest.raises(ValueError, match=r"odd.*rollout"):
        module(*[draw(5, 3)] * arguments)


def test_cs_kd_gives_the_partners_no_gradient():
    student = draw(6, 5).requires_grad_()
    loss = CSKDLoss()(student)
    torch.testing.assert_close(loss, cs_kd_loss(student[:3], student[3:]))
    loss.backward()
    assert (student.grad[:3] != 0).any()
    assert (student.grad[3:] == 0).all()


def test_ctkd_temperature_climbs_the_loss_that_the_student_descends():
    student, teacher = draw(4, 5), draw(4, 5, seed=1)
    forward, reverse = (torch.tensor(1.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ctkd_loss(student, teacher, forward, strength=1.0).backward()
    ctkd_loss(student, teacher, reverse, strength=-1.0).backward()
    assert forward.grad != 0
    torch.testing.assert_close(reverse.grad, -forward.grad)
    temperature = 1 + 20 / (1 + math.exp(-1))
    torch.testing.assert_close(
        ctkd_loss(student, teacher, forward).detach(), kd_loss(student, teacher, temperature=temperature)
    )


def test_ctkd_curriculum_ends_at_full_strength():
    loss = CTKDLoss(epochs=10)
    strengths = [loss.strength(epoch) for epoch in range(12)]
    assert strengths[4] == pytest.approx(-0.5)
    assert strengths[9:] == pytest.approx([-1.0, -1.0, -1.0])
    assert all(later <= earlier for earlier, later in itertools.pairwise(strengths))
    assert CTKDLoss(epochs=0).strength(0) == pytest.approx(-1.0)


def test_cross_entropy_equals_torch():
    student, target = draw(5, 4), torch.tensor([0, 3, -100, 1, 2])
    for smoothing in (0.0, 0.2):
        torch.testing.assert_close(
            cross_entropy_loss(student, target, label_smoothing=smoothing),
            F.cross_entropy(student, target, label_smoothing=smoothing),
        )
        soft = draw(5, 4, seed=1).softmax(-1)
        torch.testing.assert_close(
            cross_entropy_loss(student, soft, label_smoothing=smoothing),
            F.cross_entropy(student, soft, label_smoothing=smoothing),
        )


def test_virtual_teacher_equals_the_authors_numbers():
    # 100 x the mean over samples and 100 classes, as their configuration for CIFAR-100 has it.
    student, target = draw(3, 100), torch.tensor([1, 50, 99])
    teacher = torch.full((3, 100), 0.01 / 99, dtype=torch.float64).scatter(1, target.unsqueeze(1), 0.99)
    theirs = F.kl_div(F.log_softmax(student, 1), F.softmax(teacher / 20, 1), reduction="none").mean() * 100
    torch.testing.assert_close(virtual_teacher_loss(student, target), theirs)


def test_uskd_ranks_by_zipf_and_learns_its_weak_classifier():
    module = USKDLoss(alpha=0.0, beta=1.0, mu=1.0)
    student, feature, target = draw(2, 3).float().requires_grad_(), draw(2, 4, 2, 3).float(), torch.tensor([0, 1])
    module.build(student=student, feature=feature, target=target)
    torch.nn.init.zeros_(module.classifier.weight)
    torch.nn.init.zeros_(module.classifier.bias)
    others = student.detach()[0, 1:]  # the target leads where it is likely; then the others share 1/2 and 1/3
    with torch.no_grad():
        student[0, 0] = 10.0
    weak_only = math.log(3)
    value = module(student[:1], feature[:1], target[:1]).item() - weak_only
    high, low = others.sort(descending=True).values.log_softmax(-1).tolist()
    assert value == pytest.approx(-(0.6 * high + 0.4 * low), abs=1e-5)
    module(student, feature, target).backward()
    assert (module.classifier.weight.grad != 0).any()


def test_multilabel_is_the_sum_over_independent_labels():
    student, teacher = draw(3, 4), draw(3, 4, seed=1)
    columns = [
        kd_loss(*(torch.stack([z[:, i], torch.zeros(3)], -1) for z in (student, teacher)), temperature=2.0)
        for i in range(4)
    ]
    torch.testing.assert_close(multilabel_kd_loss(student, teacher, temperature=2.0), torch.stack(columns).sum())


def test_unknown_labels_are_left_out():
    student = draw(2, 3)
    target = torch.tensor([[1, 0, -100], [-100, -100, -100]])
    expected = F.binary_cross_entropy_with_logits(student[0, :2], target[0, :2].double(), reduction="sum")
    torch.testing.assert_close(binary_cross_entropy_loss(student, target), expected)


def test_regression_leaves_a_student_alone_that_beats_its_teacher():
    student = torch.tensor([[1.1], [3.0], [9.0]], requires_grad=True)
    teacher, target = torch.tensor([[2.0], [2.0], [2.0]]), torch.tensor([1.0, 1.0, torch.nan])
    loss = regression_kd_loss(student, teacher, target)
    assert loss.item() == pytest.approx(4.0 / 2)
    loss.backward()
    assert student.grad.flatten().tolist() == pytest.approx([0.0, 2.0, 0.0])
    assert regression_kd_loss(student, teacher, target, margin=5.0).item() == pytest.approx((0.01 + 4.0) / 2)
    assert smooth_l1_loss(student, target).item() == pytest.approx((0.005 + 1.5) / 2)


def test_regression_target_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(3, 1\)"):
        regression_kd_loss(draw(3, 1), draw(3, 1), draw(3, 2))
