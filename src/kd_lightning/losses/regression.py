"""Distillation of real-valued outputs, and their supervised loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean


def _targets(student: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The target in the student's shape with nan replaced by 0, and the positions where it is known."""
    if target.numel() != student.numel():
        raise ValueError(
            f"Regression target {tuple(target.shape)} does not fit the outputs {tuple(student.shape)}: one value per"
            " output is needed."
        )
    target = target.reshape(student.shape).to(student.dtype)
    return target.nan_to_num(nan=0.0), ~target.isnan().any(-1)


@full_precision
def regression_kd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    margin: float = 0.0,
) -> Tensor:
    r"""Squared error to the target while the student is worse than the teacher (teacher-bounded regression).

    .. math:: \operatorname{mean}_b \|s_b - y_b\|^2 \cdot [\|s_b - y_b\|^2 + m > \|t_b - y_b\|^2]

    A teacher's real-valued output may point away from the target, so it is a bound, not a target. Without a target
    (unlabelled data) the student imitates the teacher: the mean of :math:`\|s_b - t_b\|^2`.

    References:
        [0] Chen, Choi, Yu, Han, Chandraker. Learning Efficient Object Detection Models with Knowledge Distillation.
            NeurIPS 2017, section 3.3.

    Args:
        student: Student outputs, (..., D).
        teacher: Teacher outputs, same shape.
        target: True values, (..., D), or (...) where D is 1; nan where unknown. None to imitate the teacher.
        mask: Valid positions, (...); None for all of them.
        margin: By how much, in squared units, the student must be better to be left alone.

    Returns:
        Scalar, in squared units of the output; 0 where the student is better than the teacher by the margin.

    Raises:
        ValueError: Where the shapes do not fit.

    Example:
        >>> import torch
        >>> s, t, y = torch.tensor([[3.0], [1.0]]), torch.tensor([[2.0], [2.0]]), torch.tensor([1.0, 1.0])
        >>> regression_kd_loss(s, t, y).item()  # only the first sample is worse than the teacher
        2.0
    """
    if student.shape != teacher.shape:
        raise ValueError(f"Student outputs {tuple(student.shape)} and teacher outputs {tuple(teacher.shape)} differ.")
    teacher = teacher.detach()
    if target is None:
        return masked_mean((student - teacher).square().sum(-1), mask)
    target, known = _targets(student, target)
    own = (student - target).square().sum(-1)
    bound = (teacher - target).square().sum(-1)
    return masked_mean(own * (own.detach() + margin > bound), known if mask is None else known & mask.bool())


@full_precision
def smooth_l1_loss(student: Tensor, target: Tensor, mask: Tensor | None = None, *, beta: float = 1.0) -> Tensor:
    r"""Smooth L1 distance to the target: squared below ``beta``, absolute above.

    References:
        [0] Girshick. Fast R-CNN. ICCV 2015.

    Args:
        student: Outputs, (..., D).
        target: True values, (..., D), or (...) where D is 1; nan where unknown.
        mask: Valid positions, (...); None for all of them.
        beta: Where the square turns into the absolute value, in units of the output.

    Returns:
        Scalar; summed over D, mean over the positions.

    Raises:
        ValueError: Where the shapes do not fit.

    Example:
        >>> import torch
        >>> smooth_l1_loss(torch.tensor([[3.0]]), torch.tensor([1.0])).item()
        1.5
    """
    target, known = _targets(student, target)
    distance = F.smooth_l1_loss(student, target, reduction="none", beta=beta).sum(-1)
    return masked_mean(distance, known if mask is None else known & mask.bool())


class RegressionKDLoss(nn.Module):
    """Module form of :func:`regression_kd_loss`."""

    def __init__(self, margin: float = 0.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(
        self, student: Tensor, teacher: Tensor, target: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`regression_kd_loss`."""
        return regression_kd_loss(student, teacher, target, mask, margin=self.margin)


class SmoothL1Loss(nn.Module):
    """Module form of :func:`smooth_l1_loss`."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`smooth_l1_loss`."""
        return smooth_l1_loss(student, target, mask, beta=self.beta)
