"""Distillation of independent yes/no labels (one sigmoid each), and their cross-entropy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.logits import IGNORE, logit_pair


@full_precision
def multilabel_kd_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    standardize: bool = False,
) -> Tensor:
    r"""Sum over the labels of the divergences between two yes/no distributions.

    .. math:: T^2 \operatorname{mean}_b \sum_c \mathrm{KL}([p^t, 1 - p^t] \| [p^s, 1 - p^s])_{bc}, \qquad
        p = \sigma(z / T)

    References:
        [0] Yang, Xie, Zong, Feng, Niu, Sugiyama, Huang. Multi-Label Knowledge Distillation. ICCV 2023.
        [1] penghui-yang/L2D, criterion/distiller_zoo/logits_based/mld.py

    Differs from [1]: log-sigmoids instead of probabilities clamped at 1e-8 (whose gradient vanishes there); a
    temperature; positions can be masked.

    Args:
        student: Student logits, (..., C), one a label.
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        temperature: Softening T; scaled by T squared.
        standardize: Z-score both logits over the labels first.

    Returns:
        Scalar; 0 where student and teacher agree.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> multilabel_kd_loss(torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, -2.0]])).item()
        0.0
    """
    student, teacher = (z / temperature for z in logit_pair(student, teacher, standardize))
    yes = F.kl_div(F.logsigmoid(student), F.logsigmoid(teacher), reduction="none", log_target=True)
    no = F.kl_div(F.logsigmoid(-student), F.logsigmoid(-teacher), reduction="none", log_target=True)
    return masked_mean((yes + no).sum(-1), mask) * temperature**2


@full_precision
def binary_cross_entropy_loss(student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Binary cross-entropy, summed over the labels.

    .. math:: - \operatorname{mean}_b \sum_c y_{bc} \log \sigma(z_{bc}) + (1 - y_{bc}) \log(1 - \sigma(z_{bc}))

    References:
        [0] Yang, Xie, Zong, Feng, Niu, Sugiyama, Huang. Multi-Label Knowledge Distillation. ICCV 2023.
        [1] penghui-yang/L2D, criterion/loss/bce.py

    Differs from [1]: mean, not sum, over the batch; unknown labels can be left out.

    Args:
        student: Logits, (..., C), one a label.
        target: 0, 1 or a probability, (..., C), any dtype; -100 where a label is unknown.
        mask: Valid positions, (...); None for all of them.

    Returns:
        Scalar, in nats.

    Example:
        >>> import torch
        >>> round(binary_cross_entropy_loss(torch.zeros(1, 2), torch.tensor([[1, -100]])).item(), 4)
        0.6931
    """
    known = target != IGNORE
    target = target.where(known, target.new_zeros(())).to(student.dtype)
    losses = F.binary_cross_entropy_with_logits(student, target, reduction="none").where(known, 0.0)
    valid = known.any(-1) if mask is None else known.any(-1) & mask.bool()
    return masked_mean(losses.sum(-1), valid)


class MultiLabelKDLoss(nn.Module):
    """Module form of :func:`multilabel_kd_loss`."""

    def __init__(self, temperature: float = 1.0, standardize: bool = False) -> None:
        super().__init__()
        self.temperature = temperature
        self.standardize = standardize

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`multilabel_kd_loss`."""
        return multilabel_kd_loss(student, teacher, mask, temperature=self.temperature, standardize=self.standardize)


class BinaryCrossEntropyLoss(nn.Module):
    """Module form of :func:`binary_cross_entropy_loss`."""

    def forward(self, student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`binary_cross_entropy_loss`."""
        return binary_cross_entropy_loss(student, target, mask)
