"""Multi-level logit distillation (Jin et al., CVPR 2023): samples, pairs of samples and pairs of classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_lightning.losses.kd import kd_loss
from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.logits import logit_pair

TEMPERATURES = (4.0, 3.0, 5.0, 2.0, 6.0)


def _probabilities(student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Softened probabilities of both, (N, C); rows that are masked are 0 and add nothing to a Gram matrix."""
    student, teacher = logit_pair(student, teacher)
    pair = [(z / temperature).flatten(0, -2).softmax(-1) for z in (student, teacher)]
    if mask is not None:
        pair = [p.where(mask.bool().reshape(-1, 1), 0.0) for p in pair]
    return pair[0], pair[1]


@full_precision
def class_correlation_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, temperature: float = 4.0
) -> Tensor:
    r"""Squared difference of the class-by-class Gram matrices of the predictions.

    .. math:: \frac{1}{C} \| P_t^\top P_t - P_s^\top P_s \|_F^2, \qquad P = \operatorname{softmax}(Z / T)

    References:
        [0] Jin, Wang, Lin. Multi-Level Logit Distillation. CVPR 2023.
        [1] Jin-Ying/Multi-Level-Logit-Distillation, mdistiller/distillers/KD_ours.py: cc_loss

    Args:
        student: Student logits, (..., C).
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        temperature: Softening T; there is no T squared, as in [1].

    Returns:
        Scalar; 0 where student and teacher agree.

    Example:
        >>> import torch
        >>> class_correlation_loss(torch.eye(2), torch.eye(2)).item()
        0.0
    """
    student, teacher = _probabilities(student, teacher, mask, temperature)
    return (teacher.T @ teacher - student.T @ student).square().sum() / student.shape[1]


@full_precision
def batch_correlation_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, temperature: float = 4.0
) -> Tensor:
    r"""Squared difference of the sample-by-sample Gram matrices of the predictions.

    .. math:: \frac{1}{B} \| P_t P_t^\top - P_s P_s^\top \|_F^2, \qquad P = \operatorname{softmax}(Z / T)

    References:
        [0] Jin, Wang, Lin. Multi-Level Logit Distillation. CVPR 2023.
        [1] Jin-Ying/Multi-Level-Logit-Distillation, mdistiller/distillers/KD_ours.py: bc_loss

    Args:
        student: Student logits, (..., C); all leading dimensions count as samples.
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        temperature: Softening T; there is no T squared, as in [1].

    Returns:
        Scalar; 0 where student and teacher agree.

    Example:
        >>> import torch
        >>> batch_correlation_loss(torch.eye(2), torch.eye(2)).item()
        0.0
    """
    student, teacher = _probabilities(student, teacher, mask, temperature)
    count = len(student) if mask is None else mask.sum().clamp(min=1)
    return (teacher @ teacher.T - student @ student.T).square().sum() / count


def _low_half(confidence: Tensor) -> Tensor:
    """Share of the values that do not exceed their median."""
    return (confidence <= confidence.quantile(0.5)).to(confidence.dtype).mean()


@full_precision
def mlkd_loss(
    student_weak: Tensor,
    student_strong: Tensor,
    teacher_weak: Tensor,
    teacher_strong: Tensor,
    mask: Tensor | None = None,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    as_coded: bool = False,
    standardize: bool = False,
) -> Tensor:
    r"""Alignment of instances, batches and classes at several temperatures on two views.

    .. math:: \sum_{v \in \{\text{weak}, \text{strong}\}} \sum_T \mathcal{L}_\text{KD}(z^s_v, z^t_v; T)
        + \mathcal{L}_\text{batch}(z^s_v, z^t_v; T) + \mathcal{L}_\text{class}(z^s_v, z^t_v; T)

    References:
        [0] Jin, Wang, Lin. Multi-Level Logit Distillation. CVPR 2023.
        [1] Jin-Ying/Multi-Level-Logit-Distillation, mdistiller/distillers/KD_ours.py
        [2] sunshangquan/logit-standardization-KD, mdistiller/distillers/MLKD.py

    Differs from [1]: follows the formula of [0]. In [1] (a) the confidence masks multiply losses that are already
    means, so they scale (by about 1/2) and select nothing; (b) the last two temperatures of the strong view use the
    weak logits; (c) the batch and class terms of the strong view are computed and dropped. ``as_coded=True`` gives [1].

    Args:
        student_weak: Student logits of the weakly augmented view, (B, C).
        student_strong: Student logits of the strongly augmented view, (B, C).
        teacher_weak: Teacher logits of the weak view, (B, C).
        teacher_strong: Teacher logits of the strong view, (B, C).
        mask: Valid samples, (B,); None for all of them.
        temperatures: Temperatures, each used once; the instance terms are scaled by T squared, as in [1].
        as_coded: Reproduce [1], with its three oddities.
        standardize: Z-score the logits of the instance terms, as in [2].

    Returns:
        Scalar; 0 where student and teacher agree. The labels' cross-entropy is a term of its own.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> z = torch.eye(3)
        >>> mlkd_loss(z, z, z, z).item()
        0.0
    """
    weak, strong = (student_weak, teacher_weak), (student_strong, teacher_strong)
    samples = classes = student_weak.new_ones(())
    if as_coded:
        confidence = teacher_weak.detach().softmax(-1)
        samples, classes = _low_half(confidence.max(-1).values), _low_half(confidence.sum(0))

    total = student_weak.new_zeros(())
    for i, temperature in enumerate(temperatures):
        second = weak if as_coded and i >= 3 else strong
        total = total + samples * kd_loss(*weak, mask, temperature=temperature, standardize=standardize)
        total = total + kd_loss(*second, mask, temperature=temperature, standardize=standardize)
        for share, correlation in ((samples, batch_correlation_loss), (classes, class_correlation_loss)):
            total = total + share * correlation(*weak, mask, temperature=temperature)
            if not as_coded:
                total = total + correlation(*strong, mask, temperature=temperature)
    return total


class MLKDLoss(nn.Module):
    """:func:`mlkd_loss` on a batch that stacks [weak, strong] views, as the rollout ``TwoViews`` does."""

    def __init__(
        self,
        temperatures: Sequence[float] = TEMPERATURES,
        as_coded: bool = False,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.temperatures = tuple(temperatures)
        self.as_coded = as_coded
        self.standardize = standardize

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`mlkd_loss`; the logits hold both views, (2B, C), ``mask`` the samples, (B,)."""
        if len(student) % 2:
            raise ValueError(
                f"MLKD got {len(student)} rows, an odd number: it needs [weak, strong] views stacked, which"
                " the rollout kd_lightning.core.rollouts.TwoViews makes."
            )
        (student_weak, student_strong), (teacher_weak, teacher_strong) = student.chunk(2), teacher.chunk(2)
        return mlkd_loss(
            student_weak,
            student_strong,
            teacher_weak,
            teacher_strong,
            mask,
            temperatures=self.temperatures,
            as_coded=self.as_coded,
            standardize=self.standardize,
        )
