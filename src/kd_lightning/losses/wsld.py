"""Weighted soft labels (Zhou et al., ICLR 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.logits import logit_pair, pick, split_target


@full_precision
def wsld_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 4.0,
    standardize: bool = False,
) -> Tensor:
    r"""Soft cross-entropy, weighted down for samples on which the student is already better than the teacher.

    .. math:: - T^2 \operatorname{mean}_b w_b \sum_c p^t_{bc} \log p^s_{bc}, \qquad
        w_b = 1 - \exp\left(- \frac{\mathrm{CE}(z^s_b, y_b)}{\mathrm{CE}(z^t_b, y_b) + 10^{-7}}\right)

    p is softened by T; the cross-entropies of the weight are at temperature 1 and carry no gradient.

    References:
        [0] Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang. Rethinking Soft Labels for Knowledge Distillation: A
            Bias-Variance Tradeoff Perspective. ICLR 2021.
        [1] yzd-v/cls_KD, mmcls/models/dis_losses/wsld.py; bellymonster/Weighted-Soft-Label-Distillation

    Differs from [1]: its factor alpha is the weight of the term; positions can be masked.

    Args:
        student: Student logits, (..., C).
        teacher: Teacher logits, same shape.
        target: Class, (...), int64; positions with -100 are ignored.
        mask: Valid positions, (...); None for all of them.
        temperature: Softening T; scaled by T squared.
        standardize: Z-score both logits of the soft cross-entropy first; the weight uses the logits as they are.

    Returns:
        Scalar; not 0 where student and teacher agree (a cross-entropy).

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> z = torch.zeros(1, 2)  # weight 1 - exp(-1), cross-entropy log(2)
        >>> round(wsld_loss(z, z, torch.tensor([0]), temperature=1.0).item(), 4)
        0.4382
    """
    target, mask = split_target(target, mask)
    with torch.no_grad():
        student_ce = -pick(F.log_softmax(student, dim=-1), target)
        teacher_ce = -pick(F.log_softmax(teacher, dim=-1), target)
        weight = 1 - torch.exp(-(student_ce / (teacher_ce + 1e-7)).clamp(min=0))
    student, teacher = logit_pair(student, teacher, standardize)
    soft_target = F.softmax(teacher / temperature, dim=-1)
    soft_ce = -(soft_target * F.log_softmax(student / temperature, dim=-1)).sum(-1)
    return masked_mean(weight * soft_ce, mask) * temperature**2


class WSLDLoss(nn.Module):
    """Module form of :func:`wsld_loss`."""

    def __init__(self, temperature: float = 4.0, standardize: bool = False) -> None:
        super().__init__()
        self.temperature = temperature
        self.standardize = standardize

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`wsld_loss`."""
        return wsld_loss(student, teacher, target, mask, temperature=self.temperature, standardize=self.standardize)
