"""Knowledge distillation with softened outputs (Hinton et al., 2015)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.logits import logit_pair


@full_precision
def kd_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float | Tensor = 4.0,
    standardize: bool = False,
) -> Tensor:
    r"""Kullback-Leibler divergence of the student's from the teacher's softened distribution.

    .. math:: T^2 \cdot \operatorname{mean}_b \sum_c p^t_{bc} \log \frac{p^t_{bc}}{p^s_{bc}},
        \qquad p = \operatorname{softmax}(z / T)

    References:
        [0] Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. 2015.
        [1] megvii-research/mdistiller, mdistiller/distillers/KD.py

    Differs from [1]: the teacher is detached inside; positions can be masked.

    Args:
        student: Student logits, (..., C).
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        temperature: Softening T, larger is softer. The loss is scaled by T squared, so that its gradient keeps
            its size when T changes.
        standardize: Z-score both logits first (:func:`~kd_lightning.losses.standardize.standardize_logits`).

    Returns:
        Scalar; 0 where student and teacher agree.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> kd_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])).item()
        0.0
    """
    student, teacher = logit_pair(student, teacher, standardize)
    log_student = F.log_softmax(student / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher / temperature, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)
    return masked_mean(divergence, mask) * temperature**2


class KDLoss(nn.Module):
    """Module form of :func:`kd_loss`."""

    def __init__(self, temperature: float = 4.0, standardize: bool = False) -> None:
        super().__init__()
        self.temperature = temperature
        self.standardize = standardize

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`kd_loss`."""
        return kd_loss(student, teacher, mask, temperature=self.temperature, standardize=self.standardize)
