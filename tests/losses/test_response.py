"""What the response losses promise beyond the shared contract and the recorded values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from kd_lightning.losses.dist import dist_loss
from kd_lightning.losses.dkd import dkd_loss
from kd_lightning.losses.kd import kd_loss
from kd_lightning.losses.logits_mse import logits_mse_loss
from kd_lightning.losses.mft import mft_loss
from kd_lightning.losses.multilabel import multilabel_kd_loss
from kd_lightning.losses.nkd import nkd_loss
from kd_lightning.losses.soft_target_ce import soft_target_ce_loss
from kd_lightning.losses.standardize import standardize_logits
from kd_lightning.losses.ttm import ttm_loss, wttm_loss
from kd_lightning.losses.wsld import wsld_loss

CONF = Path(__file__).parents[2] / "conf"
# Losses of (student, teacher) with and without a target; all take mask and standardize.
UNLABELLED = [kd_loss, soft_target_ce_loss, logits_mse_loss, dist_loss, ttm_loss, wttm_loss, multilabel_kd_loss]
LABELLED = [dkd_loss, nkd_loss, wsld_loss, mft_loss]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def call(loss: Any, student: Tensor, teacher: Tensor, target: Tensor, mask: Tensor | None = None, **numbers: Any):
    return loss(student, teacher, *([target] if loss in LABELLED else []), mask, **numbers)


@pytest.mark.parametrize("loss", UNLABELLED + LABELLED)
def test_mask_equals_removing_the_positions(loss: Any):
    student, teacher, target = draw(6, 5), draw(6, 5, seed=1), torch.arange(6) % 5
    keep = torch.tensor([True, False, True, True, False, True])
    student[1] = torch.nan  # what is masked may be anything
    torch.testing.assert_close(
        call(loss, student, teacher, target, keep), call(loss, student[keep], teacher[keep], target[keep])
    )


@pytest.mark.parametrize("loss", LABELLED)
def test_target_ignored_equals_masked(loss: Any):
    student, teacher, target = draw(4, 5), draw(4, 5, seed=1), torch.arange(4)
    keep = torch.tensor([True, True, False, True])
    ignored = target.where(keep, torch.tensor(-100))
    torch.testing.assert_close(loss(student, teacher, ignored), loss(student, teacher, target, keep))


@pytest.mark.parametrize("loss", UNLABELLED + LABELLED)
def test_tokens_equal_their_flattened_positions(loss: Any):
    student, teacher, target = draw(2, 3, 5), draw(2, 3, 5, seed=1), torch.arange(6).reshape(2, 3) % 5
    flat = call(loss, student.flatten(0, 1), teacher.flatten(0, 1), target.flatten())
    torch.testing.assert_close(call(loss, student, teacher, target), flat)


@pytest.mark.parametrize("loss", UNLABELLED + LABELLED)
def test_standardized_loss_ignores_shift_and_scale(loss: Any):
    student, teacher, target = draw(4, 5), draw(4, 5, seed=1), torch.arange(4)
    plain = call(loss, student, teacher, target, standardize=True)
    moved = call(loss, student, 3 * teacher + 5, target, standardize=True)
    if loss is not wsld_loss:  # its weight compares how well both do on the labels, which the scale changes
        torch.testing.assert_close(moved, plain, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(plain, call(loss, student, teacher, target))


@pytest.mark.parametrize("loss", UNLABELLED + LABELLED)
def test_other_number_of_classes_is_refused(loss: Any):
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(4, 6\)"):
        call(loss, draw(4, 5), draw(4, 6), torch.arange(4))


def test_standardized_logits_have_unit_deviation():
    z = standardize_logits(draw(3, 7) * 10 + 4)
    torch.testing.assert_close(z.mean(-1), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.std(-1), torch.ones(3, dtype=torch.float64))


def test_standardizing_equal_logits_has_a_finite_gradient():
    z = torch.ones(2, 4, requires_grad=True)
    loss = kd_loss(z, draw(2, 4).float(), standardize=True)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()


def test_one_class_cannot_be_standardized():
    with pytest.raises(ValueError, match="two classes"):
        standardize_logits(draw(3, 1))


def test_soft_target_ce_has_the_gradient_of_kd():
    student, teacher = draw(4, 5).requires_grad_(), draw(4, 5, seed=1)
    (a,) = torch.autograd.grad(kd_loss(student, teacher, temperature=3.0), student)
    (b,) = torch.autograd.grad(soft_target_ce_loss(student, teacher, temperature=3.0), student)
    torch.testing.assert_close(a, b)


def test_soft_target_ce_takes_a_temperature_per_position():
    student, teacher = draw(2, 3, 5), draw(2, 3, 5, seed=1)
    per_position = torch.full((2, 3), 2.0, dtype=torch.float64)
    for scale in (True, False):
        torch.testing.assert_close(
            soft_target_ce_loss(student, teacher, temperature=per_position, scale=scale),
            soft_target_ce_loss(student, teacher, temperature=2.0, scale=scale),
        )


@settings(max_examples=30, deadline=None)
@given(classes=st.integers(2, 12), temperature=st.floats(0.5, 10), seed=st.integers(0, 1000))
def test_kd_is_dkd_with_the_teachers_own_weight(classes: int, temperature: float, seed: int):
    # KL = TCKD + (1 - p_t(y)) NCKD (Zhao et al., eq. 7).
    student, teacher = draw(1, classes, seed=seed), draw(1, classes, seed=seed + 1)
    target = torch.tensor([seed % classes])
    rest = 1 - (teacher / temperature).softmax(-1)[0, target].item()
    torch.testing.assert_close(
        dkd_loss(student, teacher, target, alpha=1.0, beta=rest, temperature=temperature),
        kd_loss(student, teacher, temperature=temperature),
        rtol=1e-7,
        atol=1e-10,
    )


def test_dkd_and_nkd_exclude_the_target_whatever_its_logit():
    student, teacher, target = draw(2, 4), draw(2, 4, seed=1), torch.tensor([0, 2])
    certain = student.scatter(1, target.unsqueeze(1), 5000.0)
    for loss in (
        lambda z: dkd_loss(z, teacher, target, alpha=0.0, temperature=1.0),
        lambda z: nkd_loss(z, teacher, target, gamma=1.0) - nkd_loss(z, teacher, target, gamma=0.0),
    ):
        torch.testing.assert_close(loss(certain), loss(student))


def test_nkd_takes_the_largest_of_soft_labels():
    student, teacher = draw(3, 4), draw(3, 4, seed=1)
    soft = draw(3, 4, seed=2).softmax(-1)
    torch.testing.assert_close(nkd_loss(student, teacher, soft), nkd_loss(student, teacher, soft.argmax(-1)))


def test_dist_is_zero_for_correlated_predictions():
    probabilities = draw(6, 5).softmax(-1)
    flatter = 0.5 * probabilities + 0.1  # an affine map of the probabilities keeps every correlation
    assert dist_loss(flatter.log(), probabilities.log()).item() == pytest.approx(0.0, abs=1e-5)
    assert kd_loss(flatter.log(), probabilities.log(), temperature=1.0).item() > 0.01


def test_ttm_is_zero_at_the_softened_teacher_and_finite_for_a_certain_one():
    teacher = draw(3, 5)
    assert ttm_loss(teacher / 4, teacher, temperature=4.0).item() == pytest.approx(0.0, abs=1e-12)
    certain = (teacher * 1e4).float()
    assert torch.isfinite(wttm_loss(certain, certain.flip(0), temperature=0.5))


def test_wttm_weighs_unsure_teachers_more():
    student = torch.zeros(2, 4)
    teacher = torch.tensor([[8.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])

    def ratio(row: int) -> float:
        one = slice(row, row + 1)
        return (wttm_loss(student[one], teacher[one]) / ttm_loss(student[one], teacher[one], temperature=5.0)).item()

    assert ratio(1) > ratio(0) > 1


def test_wsld_weight_is_larger_where_the_student_lags():
    student = torch.tensor([[0.0, 3.0], [3.0, 0.0]])
    teacher = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    target = torch.tensor([0, 0])
    soft_ce = [soft_target_ce_loss(student[i : i + 1], teacher[i : i + 1]).item() for i in (0, 1)]
    weights = [wsld_loss(student[i : i + 1], teacher[i : i + 1], target[i : i + 1]).item() / soft_ce[i] for i in (0, 1)]
    assert weights[0] > 0.99
    assert weights[1] < 0.5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), threshold=st.floats(0.0, 0.9))
def test_mft_is_least_where_the_label_leads_by_the_threshold(seed: int, threshold: float):
    teacher, target = draw(1, 5, seed=seed), torch.tensor([seed % 5])
    student = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(mft_loss(student, teacher, target, threshold=threshold), student)
    corrected = student.detach().softmax(-1) - gradient  # gradient of a cross-entropy: p - q
    others = corrected.clone().scatter(1, target.unsqueeze(1), 0.0)
    assert corrected.sum().item() == pytest.approx(1.0)
    assert corrected.min().item() > -1e-9
    lead = corrected[0, target].item() - others.max().item()
    assert lead > threshold - 1e-5 or corrected[0, target].item() > 1 - 1e-5


RESPONSE_METHODS = [
    path
    for path in sorted((CONF / "method").glob("*.yaml"))
    if OmegaConf.select(OmegaConf.load(path), "info.kind") in ("response", "baseline")
]


@pytest.mark.parametrize("path", RESPONSE_METHODS, ids=lambda p: p.stem)
def test_numbers_of_the_configuration_reach_the_loss(path: Path):
    method = OmegaConf.load(path)
    for entry in method.defaults:
        if entry == "_self_":
            continue
        ((key, term_name),) = entry.items()
        term = OmegaConf.load(CONF / "term" / f"{term_name}.yaml")
        term = OmegaConf.merge(term, method.terms[key.rpartition(".")[2]])
        module_name, _, class_name = term.loss._target_.rpartition(".")
        module = __import__(module_name, fromlist=[class_name])
        if not isinstance(getattr(module, class_name), type):
            continue  # Hydra binds the numbers to a function itself
        numbers = {k: v for k, v in OmegaConf.to_container(term.loss).items() if k != "_target_"}
        loss = getattr(module, class_name)(**numbers)
        for name, value in numbers.items():
            given = getattr(loss, name)
            assert (list(given) if isinstance(value, list) else given) == value
