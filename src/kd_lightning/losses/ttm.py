"""Transformed teacher matching, TTM and WTTM (Zheng and Yang, ICLR 2024)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.logits import logit_pair


def _divergence(student: Tensor, teacher: Tensor, temperature: float, standardize: bool) -> tuple[Tensor, Tensor]:
    """KL from the student to the power-transformed teacher, (...), and the transform's normaliser Z, (...)."""
    student, teacher = logit_pair(student, teacher, standardize)
    log_power = F.log_softmax(teacher, dim=-1) / temperature
    log_student, log_teacher = F.log_softmax(student, dim=-1), F.log_softmax(log_power, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)
    return divergence, log_power.logsumexp(-1).exp()


@full_precision
def ttm_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 10.0,
    standardize: bool = False,
) -> Tensor:
    r"""Divergence of the student at temperature 1 from the softened teacher.

    .. math:: \operatorname{mean}_b \mathrm{KL}\left(\frac{(p^t)^{1/T}}{Z} \,\Big\|\, p^s\right), \qquad
        p = \operatorname{softmax}(z), \quad Z = \sum_c (p^t_c)^{1/T}

    Only the teacher is softened, so there is no T squared.

    References:
        [0] Zheng, Yang. Knowledge Distillation Based on Transformed Teacher Matching. ICLR 2024.
        [1] zkxufo/TTM, distiller_zoo/ttm.py

    Differs from [1]: the power is taken of log-probabilities, so it does not underflow; the argument is the
    temperature T, which [1] gives as the exponent 1/T (``ttm_l``).

    Args:
        student: Student logits, (..., C).
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        temperature: Softening T of the teacher; the exponent of the paper is 1/T.
        standardize: Z-score both logits first.

    Returns:
        Scalar; 0 where the student equals the softened teacher.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> ttm_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0]])).item() < 1e-6
        True
    """
    return masked_mean(_divergence(student, teacher, temperature, standardize)[0], mask)


@full_precision
def wttm_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 5.0,
    standardize: bool = False,
) -> Tensor:
    r"""TTM with each sample weighted by the normaliser of its power transform: more where the teacher is unsure.

    .. math:: \operatorname{mean}_b Z_b \, \mathrm{KL}\left(\frac{(p^t_b)^{1/T}}{Z_b} \,\Big\|\, p^s_b\right)

    References:
        [0] Zheng, Yang. Knowledge Distillation Based on Transformed Teacher Matching. ICLR 2024.
        [1] zkxufo/TTM, distiller_zoo/wttm.py

    Differs from [1]: as :func:`ttm_loss`; the weight is detached from the teacher.

    Args:
        student: Student logits, (..., C).
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        temperature: Softening T of the teacher; the exponent of the paper is 1/T.
        standardize: Z-score both logits first.

    Returns:
        Scalar; 0 where the student equals the softened teacher.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> wttm_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 10.0]])).item() < 1e-6
        True
    """
    divergence, weight = _divergence(student, teacher, temperature, standardize)
    return masked_mean(weight * divergence, mask)


class TTMLoss(nn.Module):
    """Module form of :func:`ttm_loss`."""

    def __init__(self, temperature: float = 10.0, standardize: bool = False) -> None:
        super().__init__()
        self.temperature = temperature
        self.standardize = standardize

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`ttm_loss`."""
        return ttm_loss(student, teacher, mask, temperature=self.temperature, standardize=self.standardize)


class WTTMLoss(nn.Module):
    """Module form of :func:`wttm_loss`."""

    def __init__(self, temperature: float = 5.0, standardize: bool = False) -> None:
        super().__init__()
        self.temperature = temperature
        self.standardize = standardize

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`wttm_loss`."""
        return wttm_loss(student, teacher, mask, temperature=self.temperature, standardize=self.standardize)
