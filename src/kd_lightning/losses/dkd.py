"""Decoupled knowledge distillation (Zhao et al., CVPR 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.logits import logit_pair, pick, split_target, without_target


def _log_target_and_rest(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """log p(target) and log(1 - p(target)), (...); both finite however certain the net is."""
    is_target = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, target.unsqueeze(-1), True)
    total = logits.logsumexp(-1)
    return pick(logits, target) - total, logits.masked_fill(is_target, -torch.inf).logsumexp(-1) - total


@full_precision
def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    standardize: bool = False,
) -> Tensor:
    r"""Distillation of the target's probability (TCKD) and of the other classes among themselves (NCKD), apart.

    .. math:: \alpha T^2 \operatorname{mean}_b \mathrm{KL}([p^t_y, 1 - p^t_y] \| [p^s_y, 1 - p^s_y])
        + \beta T^2 \operatorname{mean}_b \mathrm{KL}(\hat p^t \| \hat p^s), \qquad
        \hat p = \operatorname{softmax}_{c \neq y}(z_c / T)

    In plain KD the second term is weighted by :math:`1 - p^t_y`, which is small where the teacher is sure.

    References:
        [0] Zhao, Cui, Song, Qiu, Liang. Decoupled Knowledge Distillation. CVPR 2022.
        [1] megvii-research/mdistiller, mdistiller/distillers/DKD.py

    Differs from [1]: the target class is excluded, not lowered by 1000 (the mask of [1] leaks for very large logits);
    log(1 - p) is a log-sum-exp, so both terms stay finite where [1] takes log(0). The warm-up of [1]'s trainer is
    the schedule of the term's weight.

    Args:
        student: Student logits, (..., C) with C > 1.
        teacher: Teacher logits, same shape.
        target: Class, (...), int64; positions with -100 are ignored.
        mask: Valid positions, (...); None for all of them.
        alpha: Weight of TCKD.
        beta: Weight of NCKD; the published value depends on the pair (8 for resnet32x4 -> resnet8x4).
        temperature: Softening T of both terms; both are scaled by T squared.
        standardize: Z-score both logits first.

    Returns:
        Scalar; 0 where student and teacher agree.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> z = torch.tensor([[1.0, 2.0, 3.0]])
        >>> dkd_loss(z, z, torch.tensor([0])).item()
        0.0
    """
    student, teacher = (z / temperature for z in logit_pair(student, teacher, standardize))
    target, mask = split_target(target, mask)

    log_student, log_student_rest = _log_target_and_rest(student, target)
    log_teacher, log_teacher_rest = _log_target_and_rest(teacher, target)
    tckd = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    tckd = tckd + F.kl_div(log_student_rest, log_teacher_rest, reduction="none", log_target=True)

    _, log_student_others = without_target(student, target)
    teacher_others, log_teacher_others = without_target(teacher, target)
    nckd = (teacher_others * (log_teacher_others - log_student_others)).sum(-1)
    return masked_mean(alpha * tckd + beta * nckd, mask) * temperature**2


class DKDLoss(nn.Module):
    """Module form of :func:`dkd_loss`."""

    def __init__(
        self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, standardize: bool = False
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.standardize = standardize

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`dkd_loss`."""
        return dkd_loss(
            student,
            teacher,
            target,
            mask,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            standardize=self.standardize,
        )
