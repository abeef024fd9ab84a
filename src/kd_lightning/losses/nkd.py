"""Normalised knowledge distillation (Yang et al., ICCV 2023)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.logits import logit_pair, pick, split_target, without_target


@full_precision
def nkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
    standardize: bool = False,
) -> Tensor:
    r"""Soft loss of the target class plus a cross-entropy over the normalised other classes.

    .. math:: - \operatorname{mean}_b p^t_y \log p^s_y
        - \gamma T^2 \operatorname{mean}_b \sum_{c \neq y} \hat p^t_c \log \hat p^s_c, \qquad
        \hat p = \operatorname{softmax}_{c \neq y}(z_c / T)

    References:
        [0] Yang, Zeng, Li, Zhang, Yuan, Li. From Knowledge Distillation to Self-Knowledge Distillation: A Unified
            Approach with Normalized Loss and Customized Soft Labels. ICCV 2023.
        [1] yzd-v/cls_KD, mmcls/models/dis_losses/nkd.py

    Differs from [1]: positions can be masked.

    Args:
        student: Student logits, (..., C) with C > 1.
        teacher: Teacher logits, same shape.
        target: Class, (...), int64, -100 is ignored; or soft labels (..., C), of which the largest counts, as in [1].
        mask: Valid positions, (...); None for all of them.
        gamma: Weight of the other classes.
        temperature: Softening T of the other classes, scaled by T squared; the target's term is always at 1.
        standardize: Z-score both logits first.

    Returns:
        Scalar; both terms are cross-entropies, so it is not 0 where student and teacher agree.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> z = torch.zeros(1, 2)  # one other class: only 0.5 * log(2) of the target is left
        >>> round(nkd_loss(z, z, torch.tensor([0])).item(), 4)
        0.3466
    """
    student, teacher = logit_pair(student, teacher, standardize)
    target, mask = split_target(target.argmax(-1) if target.is_floating_point() else target, mask)

    soft_target = pick(F.softmax(teacher, dim=-1), target)
    target_loss = -soft_target * pick(F.log_softmax(student, dim=-1), target)

    teacher_others, _ = without_target(teacher / temperature, target)
    _, log_student_others = without_target(student / temperature, target)
    others_loss = -(teacher_others * log_student_others).sum(-1)
    return masked_mean(target_loss + gamma * temperature**2 * others_loss, mask)


class NKDLoss(nn.Module):
    """Module form of :func:`nkd_loss`."""

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0, standardize: bool = False) -> None:
        super().__init__()
        self.gamma = gamma
        self.temperature = temperature
        self.standardize = standardize

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`nkd_loss`."""
        return nkd_loss(
            student,
            teacher,
            target,
            mask,
            gamma=self.gamma,
            temperature=self.temperature,
            standardize=self.standardize,
        )
