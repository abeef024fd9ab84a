"""Knowledge distillation with the reused teacher classifier (Chen et al., 2022)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, match_spatial
from kd_lightning.losses.ops.maps import as_map, check_channels


@full_precision
def simkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared error between the student's projected last map and the teacher's, before the pooling.

    .. math:: \operatorname{mean}_{bchw} (g(F^s) - F^t)^2

    The projector g is not here: it belongs to the deployed student, which predicts with the teacher's classifier
    (:class:`kd_lightning.models.reused_head.ReusedHeadStudent`). In the published recipe this is the only term.

    References:
        [0] Chen, Mei, Zhang, Wang, Feng, Chen. Knowledge Distillation with the Reused Teacher Classifier. CVPR 2022.
        [1] DefangChen/SimKD, models/util.py (SimKD) and helper/loops.py

    Differs from [1]: the teacher is detached inside; maps need not be square.

    Args:
        student: Projected map, (B, C, H, W); in a method ``student.projector``.
        teacher: Last map of the teacher, (B, C, H', W'); the larger of the two is average-pooled.

    Returns:
        Scalar; 0 where the maps agree.

    Raises:
        ValueError: Different numbers of channels.

    Example:
        >>> import torch
        >>> simkd_loss(torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 8, 8)).item()
        1.0
    """
    student, teacher = as_map(student), as_map(teacher)
    check_channels(student, teacher, "ReusedHeadStudent.projector")
    student, teacher = match_spatial(student, teacher.detach())
    return F.mse_loss(student, teacher)


class SimKDLoss(nn.Module):
    """Module form of :func:`simkd_loss`."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`simkd_loss`."""
        return simkd_loss(student, teacher)
