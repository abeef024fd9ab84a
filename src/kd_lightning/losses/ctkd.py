"""Curriculum temperature (Li et al., AAAI 2023): the temperature is learned, against the student."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kd_lightning.losses.kd import kd_loss


def ctkd_loss(
    student: Tensor,
    teacher: Tensor,
    theta: Tensor,
    mask: Tensor | None = None,
    *,
    strength: float = -1.0,
    start: float = 1.0,
    span: float = 20.0,
    standardize: bool = False,
) -> Tensor:
    r"""Knowledge distillation at a learned temperature, whose gradient is scaled (reversed where negative).

    .. math:: T^2 \operatorname{mean}_b \mathrm{KL}(p^t_b \| p^s_b), \qquad
        p = \operatorname{softmax}(z / T), \quad T = T_0 + \Delta \cdot \operatorname{sigmoid}(\theta)

    References:
        [0] Li, Li, Yang, Zhao, Song, Luo, Li, Yang. Curriculum Temperature for Knowledge Distillation. AAAI 2023.
        [1] zhengli97/CTKD, distiller_zoo/KD.py, models/temp_global.py, helper/loops.py

    Differs from [1]: positions can be masked; the teacher is detached inside.

    Args:
        student: Student logits, (..., C).
        teacher: Teacher logits, same shape.
        theta: The learned parameter, one element.
        mask: Valid positions, (...); None for all of them.
        strength: The gradient that reaches theta is multiplied by it: -1 makes the temperature maximise the loss,
            0 freezes it.
        start: Lowest temperature T0.
        span: Range of the temperature above it.
        standardize: Z-score both logits first.

    Returns:
        Scalar; 0 where student and teacher agree.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> z = torch.tensor([[1.0, 2.0]])
        >>> ctkd_loss(z, z, torch.tensor(1.0)).item()
        0.0
    """
    theta = theta.reshape(())
    # The value of theta, with `strength` times its gradient.
    theta = theta.detach() + strength * (theta - theta.detach())
    temperature = start + span * torch.sigmoid(theta)
    return kd_loss(student, teacher, mask, temperature=temperature, standardize=standardize)


class CTKDLoss(nn.Module):
    """:func:`ctkd_loss` with its temperature and the curriculum of its strength.

    The strength goes along half a cosine from 0 to -1 over the first epochs and stays there: easy at first, then ever
    harder (the authors' script: ``--decay_max 0 --decay_min -1 --decay_loops 10``).

    Args:
        start: Lowest temperature.
        span: Range of the temperature above it.
        epochs: Length of the curriculum.
        standardize: Z-score both logits first.
    """

    def __init__(self, start: float = 1.0, span: float = 20.0, epochs: int = 10, standardize: bool = False) -> None:
        super().__init__()
        self.start = start
        self.span = span
        self.epochs = epochs
        self.standardize = standardize
        self.theta = nn.Parameter(torch.ones(()))

    def strength(self, epoch: int) -> float:
        """Factor of the temperature's gradient in this epoch (from 0); the authors count epochs from 1."""
        done = min((epoch + 1) / self.epochs, 1.0) if self.epochs > 0 else 1.0
        return 0.5 * (math.cos(math.pi * done) - 1)

    def forward(self, student: Tensor, teacher: Tensor, epoch: int, mask: Tensor | None = None) -> Tensor:
        """See :func:`ctkd_loss`; ``epoch`` counts from 0."""
        return ctkd_loss(
            student,
            teacher,
            self.theta,
            mask,
            strength=self.strength(epoch),
            start=self.start,
            span=self.span,
            standardize=self.standardize,
        )
