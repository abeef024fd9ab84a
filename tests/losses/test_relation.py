"""Relation losses: what the golden values and the shared tester do not show (CRD: test_crd.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd_lightning.losses.cc import CCLoss, cc_loss
from kd_lightning.losses.kdsvd import KDSVDLoss, kdsvd_loss
from kd_lightning.losses.pkt import pkt_loss
from kd_lightning.losses.rkd import RKDLoss, rkd_angle_loss, rkd_distance_loss, rkd_loss
from kd_lightning.losses.sp import sp_loss
from kd_lightning.losses.sskd import SSKDLoss, sskd_loss, sskd_pretext_loss


def gradient(loss: Callable[..., Tensor], student: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Value and the student's gradient."""
    student = student.clone().requires_grad_()
    value = loss(student, *args, **kwargs)
    value.backward()
    return value.detach(), student.grad


# -- RKD -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [rkd_distance_loss, rkd_angle_loss, rkd_loss, pkt_loss, sp_loss, cc_loss])
def test_a_batch_of_one_is_zero_with_a_graph(loss):
    value, grad = gradient(loss, torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]))
    assert value == 0
    assert torch.equal(grad, torch.zeros(1, 2))


def test_rkd_sees_relations_only():
    torch.manual_seed(0)
    x = torch.randn(5, 4, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    assert rkd_loss(3 * x @ rotation + 1, x) < 1e-12
    assert rkd_loss(x * torch.tensor([1.0, 2, 3, 4], dtype=torch.float64), x) > 0.01


@pytest.mark.parametrize("loss", [rkd_distance_loss, rkd_angle_loss, rkd_loss])
def test_equal_samples_get_no_huge_gradient_in_float32(loss):
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 8) * 100, torch.randn(6, 5)
    student[3] = student[0]
    value, grad = gradient(loss, student, teacher)
    assert torch.isfinite(value)
    assert grad.abs().max() < 10


def test_rkd_distance_between_equal_samples_is_zero_in_float32():
    # In the Gram form these rows of length 1e4 would be about 1e1 apart.
    far = torch.tensor([[1e4, 1.0], [1e4, 1.0], [1e4, 2.0]])
    near = far - torch.tensor([1e4, 0.0])
    torch.testing.assert_close(rkd_distance_loss(far, near), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_rkd_module_uses_its_weights_and_refuses_none():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3), torch.randn(4, 5)
    expected = 2 * rkd_distance_loss(student, teacher) + 3 * rkd_angle_loss(student, teacher)
    torch.testing.assert_close(RKDLoss(2.0, 3.0)(student, teacher), expected)
    torch.testing.assert_close(RKDLoss(0.0, 3.0)(student, teacher), 3 * rkd_angle_loss(student, teacher))
    with pytest.raises(ValueError, match="distance_weight or angle_weight"):
        RKDLoss(0.0, 0.0)


# -- SP, PKT, CC -----------------------------------------------------------------------------------------------------


def test_sp_sums_over_stages_and_refuses_unequal_lists():
    torch.manual_seed(0)
    student = [torch.randn(3, 4, 5, 2), torch.randn(3, 7)]
    teacher = [torch.randn(3, 6, 2, 2), torch.randn(3, 9)]
    parts = [sp_loss(s, t) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(sp_loss(student, teacher), parts[0] + parts[1])
    with pytest.raises(ValueError, match=r"2 features and the teacher\s+1"):
        sp_loss(student, teacher[:1])


@pytest.mark.parametrize("loss", [sp_loss, pkt_loss])
def test_a_sample_of_zeros_gets_no_huge_gradient(loss):
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3), torch.randn(4, 5)
    student[1] = 0
    value, grad = gradient(loss, student, teacher)
    assert torch.isfinite(value)
    assert torch.isfinite(grad).all()
    assert 0 < grad.abs().max() < 10


def test_pkt_is_finite_for_opposite_samples():
    for x in torch.randn(200, 64, generator=torch.Generator().manual_seed(0)).split(1):
        value, grad = gradient(pkt_loss, torch.cat([x, -x]), torch.cat([x, x]))
        assert torch.isfinite(value)
        assert torch.isfinite(grad).all()


def test_cc_pairs_neighbours():
    error = torch.tensor([[1.0, -2.0], [3.0, 0.0], [-5.0, 4.0]])
    torch.testing.assert_close(cc_loss(error, torch.zeros(3, 2)), torch.tensor((3.0 + 15.0) / 2))
    torch.testing.assert_close(cc_loss(error[[1, 0, 2]], torch.zeros(3, 2)), torch.tensor((3.0 + 13.0) / 2))
    with pytest.raises(ValueError, match="one shape"):
        cc_loss(error, torch.zeros(3, 3))


# -- KDSVD -----------------------------------------------------------------------------------------------------------


def test_kdsvd_does_not_depend_on_the_signs_of_the_library(monkeypatch):
    torch.manual_seed(0)
    student, teacher = ([torch.randn(3, c, 4, 3) for c in (5, 6, 7)] for _ in range(2))
    expected = kdsvd_loss(student, teacher, k=2)
    decompose = torch.linalg.svd

    def flipped(x: Tensor, full_matrices: bool):
        u, s, vh = decompose(x, full_matrices=full_matrices)
        sign = torch.randint(2, s.shape) * 2.0 - 1
        return u * sign.unsqueeze(1), s, vh * sign.unsqueeze(2)

    monkeypatch.setattr(torch.linalg, "svd", flipped)
    for _ in range(4):
        torch.testing.assert_close(kdsvd_loss(student, teacher, k=2), expected)


@pytest.mark.parametrize("size", [(4, 3), (2, 2)], ids=["more positions than channels", "fewer"])
def test_kdsvd_gradient_equals_finite_differences(size: tuple[int, int]):
    torch.manual_seed(0)
    make = lambda c: torch.randn(2, c, *size, dtype=torch.float64)  # noqa: E731
    first, second, teacher = make(6), make(7), [make(6), make(7)]
    inputs = (first.requires_grad_(), second.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: kdsvd_loss([a, b], teacher, k=2), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kdsvd_gradient_is_finite_for_repeated_singular_values(dtype: torch.dtype):
    torch.manual_seed(0)
    first = torch.zeros(3, 6, 4, 4, dtype=dtype)
    first[0] = torch.randn(6, 4, 4)
    first[0, 2:] = 0  # dead channels: four singular values of 0
    first[1].flatten(1)[:, :6] = torch.eye(6)  # six singular values of 1
    # The third sample is all zero.
    second, teacher = torch.rand(3, 5, 2, 2, dtype=dtype), [torch.rand(3, c, 3, 3, dtype=dtype) for c in (6, 5)]
    first.requires_grad_()
    kdsvd_loss([first, second], teacher, k=2).backward()
    assert torch.isfinite(first.grad).all()
    assert first.grad[0].abs().sum() > 0
    assert first.grad.abs().max() < 1e4


def test_kdsvd_adapts_channels_only_where_they_differ():
    torch.manual_seed(0)
    student, teacher = [torch.randn(2, c, 3, 3) for c in (4, 5)], [torch.randn(2, c, 3, 3) for c in (4, 6)]
    loss = KDSVDLoss()
    loss.build(student, teacher)
    assert {n: tuple(p.shape) for n, p in loss.named_parameters()} == {"adapters.1.weight": (6, 5, 1, 1)}
    assert loss(student, teacher) > 0
    with pytest.raises(ValueError, match="stage 1 the student has 5 and the teacher 6"):
        kdsvd_loss(student, teacher)
    with pytest.raises(ValueError, match="at least two"):
        kdsvd_loss(student[:1], teacher[:1])
    with pytest.raises(ValueError, match="not 1 and 2"):
        loss(student[:1], teacher)


# -- Shapes ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 5),
    widths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=4, max_size=4),
    k=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_any_shape_gives_a_finite_scalar_and_gradient(batch, widths, sizes, k, seed):
    torch.manual_seed(seed)
    maps = [torch.randn(batch, c, *size) for c, size in zip(widths * 2, sizes, strict=True)]
    student, teacher = [m.requires_grad_() for m in maps[:2]], [maps[2].detach(), maps[3].detach()]
    losses = [
        rkd_loss(student[0], teacher[1]),
        pkt_loss(student[0], teacher[1]),
        sp_loss(student, teacher[::-1]),
        kdsvd_loss(student, teacher, k=k),
    ]
    for make in (lambda: CCLoss(dim=3), lambda: SSKDLoss(views=batch + 1)):
        module = make()
        copies = batch + 1 if isinstance(module, SSKDLoss) else 1
        arguments = {"student": student[0].repeat(copies, 1, 1, 1), "teacher": teacher[1].repeat(copies, 1, 1, 1)}
        module.build(**arguments)
        losses.append(module(**arguments))
    for loss in losses:
        assert loss.shape == ()
        assert torch.isfinite(loss)
        for grad in torch.autograd.grad(loss, student, allow_unused=True):
            assert grad is None or torch.isfinite(grad).all()


# -- SSKD ------------------------------------------------------------------------------------------------------------


def sskd_by_hand(student: Tensor, teacher: Tensor, keep: float, temperature: float = 0.5) -> Tensor:
    """The definition, row by row."""
    batch = len(student) // 4
    rows = []
    for i in range(batch, 4 * batch):
        a_s, a_t = (torch.cosine_similarity(x[i : i + 1], x[:batch]) for x in (student, teacher))
        p = torch.softmax(a_t / temperature, 0)
        divergence = (p * (p.log() - torch.log_softmax(a_s / temperature, 0))).sum()
        rows.append((int((a_t > a_t[i % batch]).sum()), divergence))
    wrong = sum(rank > 0 for rank, _ in rows)
    rows = sorted(rows, key=lambda row: row[0])[: len(rows) - wrong + int(wrong * keep)]
    return torch.stack([divergence for _, divergence in rows]).mean() * temperature**2


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.75, 1.0])
def test_sskd_equals_its_definition(keep: float):
    torch.manual_seed(0)
    student = torch.randn(20, 6, dtype=torch.float64)
    plain = torch.randn(5, 4, dtype=torch.float64)
    teacher = torch.cat([plain, *(plain + 0.8 * torch.randn(5, 4, dtype=torch.float64) for _ in range(3))])
    torch.testing.assert_close(sskd_loss(student, teacher, keep_wrong=keep), sskd_by_hand(student, teacher, keep))


def test_sskd_keeps_the_published_share_of_wrong_rows():
    # Two plain samples; of four views the teacher takes every transformed copy for the other sample.
    plain = torch.eye(2)
    teacher = torch.cat([plain, *[plain.flip(0)] * 3])
    student = torch.cat([plain, torch.tensor([[1.0, 1.0]] * 6)])
    assert sskd_loss(student, teacher, keep_wrong=0.0) == 0  # no row is kept
    torch.testing.assert_close(sskd_loss(student, teacher, keep_wrong=0.5), sskd_loss(student, teacher, keep_wrong=1.0))


def test_sskd_depends_on_the_pairing_of_views_not_on_the_order_of_samples():
    torch.manual_seed(0)
    student, teacher = torch.randn(20, 6), torch.randn(20, 4)
    order = torch.randperm(5)
    rows = torch.cat([order + 5 * view for view in range(4)])
    expected = sskd_loss(student, teacher, keep_wrong=1.0)
    torch.testing.assert_close(sskd_loss(student[rows], teacher[rows], keep_wrong=1.0), expected)
    rows[:5] = torch.arange(5)
    assert not torch.allclose(sskd_loss(student[rows], teacher, keep_wrong=1.0), expected)


def test_sskd_pretext_is_the_cross_entropy_of_finding_the_origin():
    plain = torch.eye(3)
    expected = -torch.log_softmax(torch.tensor([1.0, 0.0, 0.0]), 0)[0]
    torch.testing.assert_close(sskd_pretext_loss(plain.repeat(4, 1)), expected)
    assert sskd_pretext_loss(torch.cat([plain, plain.roll(1, 0).repeat(3, 1)])) > expected


def test_sskd_trains_the_teacher_head_until_it_is_frozen():
    torch.manual_seed(0)
    module = SSKDLoss(pretext_weight=0.1)
    student, teacher = torch.randn(8, 6, requires_grad=True), torch.randn(8, 4, requires_grad=True)
    module.build(student, teacher)
    both = module(student, teacher)
    z_student, z_teacher = module.student_head(student), module.teacher_head(teacher)
    pretext = torch.autograd.grad(0.1 * sskd_pretext_loss(z_teacher), list(module.teacher_head.parameters()))
    both.backward()
    assert teacher.grad is None
    for parameter, expected in zip(module.teacher_head.parameters(), pretext, strict=True):
        torch.testing.assert_close(parameter.grad, expected)  # the student's similarities do not pull on it

    module.teacher_head.requires_grad_(False)
    torch.testing.assert_close(module(student, teacher), sskd_loss(z_student, z_teacher))
    torch.testing.assert_close(both, sskd_loss(z_student, z_teacher) + 0.1 * sskd_pretext_loss(z_teacher))


def test_sskd_says_what_batch_it_needs():
    with pytest.raises(ValueError, match="Rotations"):
        sskd_loss(torch.randn(6, 3), torch.randn(6, 3))
