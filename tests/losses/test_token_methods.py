"""Token losses with more than a formula: top-k teachers, TAID's schedule, MiniLLM's policy gradient, two tokenizers."""

from __future__ import annotations

import math

import pytest
import torch

from kd_lightning.losses.forward_kl import forward_kl_loss
from kd_lightning.losses.minillm import MiniLLMLoss, minillm_advantage, minillm_loss
from kd_lightning.losses.reverse_kl import reverse_kl_loss
from kd_lightning.losses.sparse_kl import SparseKLLoss, sparse_kl_loss
from kd_lightning.losses.taid import TAIDLoss
from kd_lightning.losses.uld import uld_loss
from tests.losses.test_token import logits


@pytest.mark.parametrize("missing", ["zero", "tail"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_all_entries_kept_is_the_dense_divergence(missing, temperature):
    student, teacher = logits(2, 3, 7)
    kept = teacher.log_softmax(-1).topk(7)
    sparse = sparse_kl_loss(student, kept.indices, kept.values, missing=missing, temperature=temperature)
    torch.testing.assert_close(sparse, forward_kl_loss(student, teacher, temperature=temperature))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_top_k_follows_its_formula(temperature):
    student, teacher = logits(1, 1, 6)
    kept = teacher.log_softmax(-1).topk(3)
    p_student = (student / temperature).softmax(-1).gather(-1, kept.indices).flatten()
    p_teacher = kept.values.exp().flatten() ** (1 / temperature)
    zero = p_teacher / p_teacher.sum()
    expected = temperature**2 * (zero * (zero / p_student).log()).sum()
    value = sparse_kl_loss(student, kept.indices, kept.values, missing="zero", temperature=temperature)
    torch.testing.assert_close(value, expected)

    rest = (1 - kept.values.exp().sum()) ** (1 / temperature)
    tail = torch.cat([p_teacher, rest[None]]) / (p_teacher.sum() + rest)
    buckets = torch.cat([p_student, 1 - p_student.sum(0, keepdim=True)])
    expected = temperature**2 * (tail * (tail / buckets).log()).sum()
    value = sparse_kl_loss(student, kept.indices, kept.values, missing="tail", temperature=temperature)
    torch.testing.assert_close(value, expected)


def test_the_tail_is_exact_where_the_student_has_all_its_mass_in_the_top_k():
    student = torch.tensor([[200.0, 100.0, 0.0]], requires_grad=True)
    loss = sparse_kl_loss(student, torch.tensor([[0]]), torch.tensor([[0.5]]).log())
    loss.backward()
    # The teacher's other half lies in the tail, where the student's log-probability is -100.
    torch.testing.assert_close(loss.detach(), torch.tensor(0.5 * 100 + math.log(0.5)))
    torch.testing.assert_close(student.grad, torch.tensor([[0.5, -0.5, 0.0]]))


def test_top_k_with_vocabulary_padding_stays_finite():
    student = torch.tensor([[1.0, 0.0, -math.inf]], requires_grad=True)
    kept = torch.tensor([[0.6, 0.4]]).log()
    loss = sparse_kl_loss(student, torch.tensor([[0, 1]]), kept)
    loss.backward()
    torch.testing.assert_close(loss.detach(), forward_kl_loss(student.detach()[:, :2], kept))
    assert torch.isfinite(student.grad).all()


def test_sparse_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="missing"):
        SparseKLLoss("uniform")
    with pytest.raises(ValueError, match="teacher_indices"):
        sparse_kl_loss(torch.zeros(2, 3, 5), torch.zeros(2, 2, 4).long(), torch.zeros(2, 2, 4))


def test_taid_moves_from_the_student_to_the_teacher():
    student, teacher = logits(2, 3, 5)
    loss = TAIDLoss(t_start=0.0, subtract_entropy=True)
    assert loss(student, teacher, progress=0.0).abs() < 1e-12  # the target is the student itself
    trace = [loss.t.item()]
    for step in range(1, 11):
        loss(student.requires_grad_(), teacher, progress=step / 10)
        trace.append(loss.t.item())
    assert trace == sorted(trace)
    assert trace[5] == pytest.approx(0.5, abs=1e-2)
    assert trace[-1] == 1.0
    torch.testing.assert_close(
        loss.eval()(student, teacher), forward_kl_loss(student, teacher), check_dtype=False, rtol=1e-6, atol=0
    )


def test_taid_adaptive_part_runs_ahead_of_the_line_where_the_loss_falls():
    adaptive, linear = TAIDLoss(alpha=0.2), TAIDLoss(alpha=0.2, adaptive=False)
    for step in range(5):
        for loss in (adaptive, linear):
            loss.update(torch.tensor(1.0 / (step + 1)), progress=step / 100)
    assert adaptive.t > linear.t
    torch.testing.assert_close(linear.t, torch.tensor(0.4 + 0.6 * 0.04))


def test_taid_stands_still_in_evaluation_and_resumes_where_it_stopped():
    student, teacher = logits(2, 3, 5)
    loss = TAIDLoss(alpha=0.5)
    for step in range(4):
        loss(student * (1 - 0.1 * step), teacher, progress=step / 10)
    resumed = TAIDLoss(alpha=0.5)
    resumed.load_state_dict(loss.state_dict())
    loss.eval()(student, teacher, progress=0.9)
    with torch.no_grad():
        loss.train()(student, teacher, progress=0.9)
    for x in (loss, resumed):
        x.train()(student, teacher, progress=0.4)
    torch.testing.assert_close(resumed.t, loss.t, rtol=0, atol=0)
    torch.testing.assert_close(resumed.momentum, loss.momentum, rtol=0, atol=0)


def test_minillm_policy_gradient_is_in_expectation_that_of_the_reverse_kl():
    student, teacher = logits(1, 1, 5)
    student.requires_grad_()
    expected = torch.autograd.grad(reverse_kl_loss(student, teacher), student)[0]
    for mix in (0.0, 0.2):
        sampling = (mix * teacher.softmax(-1) + (1 - mix) * student.softmax(-1)).detach().flatten()
        options = {
            "teacher_mix": mix,
            "whiten": False,
            "reward_scaling": 1.0,
            "clip_ratio": 100.0,
            "single_step": False,
        }
        actual = torch.zeros_like(student)
        for token, probability in enumerate(sampling):
            loss = minillm_loss(student, teacher, torch.tensor([[token]]), **options)
            actual += probability * torch.autograd.grad(loss, student)[0]
            given = minillm_loss(
                student, teacher, torch.tensor([[token]]), behaviour=probability.log().view(1, 1), **options
            )
            torch.testing.assert_close(given, loss)
        torch.testing.assert_close(actual, expected)


def test_minillm_single_step_part_is_the_reverse_kl():
    student, teacher = logits(2, 3, 5)
    target = torch.tensor([[1, 2, -100], [0, 4, 3]])
    both, policy = (MiniLLMLoss(single_step=on)(student, teacher, target) for on in (True, False))
    torch.testing.assert_close(both - policy, reverse_kl_loss(student, teacher, target != -100))


def test_minillm_advantage_is_normalised_by_the_remaining_length():
    rewards, mask = torch.tensor([[1.0, 2.0, 4.0, 99.0]]), torch.tensor([[1, 1, 1, 0]])
    expected = torch.tensor([[(1 + 1 + 1) / 3, (2 + 2) / 2, 4.0, 0.0]])
    torch.testing.assert_close(minillm_advantage(rewards, mask, gamma=0.5, whiten=False), expected)
    white = minillm_advantage(rewards, mask)[:, :3]
    torch.testing.assert_close(white.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(white.std(correction=0), torch.tensor(1.0))


def test_uld_needs_neither_order_nor_size_of_the_vocabulary():
    student, teacher = logits(2, 4, 6)
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    expected = uld_loss(student, teacher, mask, mask)
    wider = torch.cat([teacher, teacher.new_full((2, 4, 3), -math.inf)], -1)[..., torch.randperm(9)]
    torch.testing.assert_close(uld_loss(student, wider, mask, mask), expected)


def test_uld_aligns_answers_wherever_they_stand_and_averages_row_by_row():
    student, teacher = logits(2, 4, 6)
    ones = torch.ones(1, 4)
    rows = [uld_loss(student[:1, :2], teacher[:1, :2], ones[:, :2], ones[:, :2])]
    rows.append(uld_loss(student[1:], teacher[1:], ones, ones))
    # The first answer: two tokens of the student after a prompt of one, three of the teacher after none.
    moved = torch.cat([student[:1, 3:], student[:1, :2], student[:1, 3:]], 1)
    student = torch.cat([moved, student[1:]])
    student_mask, teacher_mask = torch.tensor([[0, 1, 1, 0], [1] * 4]), torch.tensor([[1, 1, 1, 0], [1] * 4])
    torch.testing.assert_close(uld_loss(student, teacher, student_mask, teacher_mask), sum(rows) / 2)
    with pytest.raises(ValueError, match="teacher_mask"):
        uld_loss(student, teacher, student_mask, teacher_mask[:, :3])
