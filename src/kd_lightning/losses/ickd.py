"""Inter-channel correlation distillation (Liu et al., 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.layers import to_like
from kd_lightning.losses.ops.maps import as_map, check_channels
from kd_lightning.losses.ops.norm import BatchNorm


def _correlation(features: Tensor) -> Tensor:
    """Gram matrix of the channels (B, C, C) with rows of unit length."""
    rows = features.flatten(2)
    return F.normalize(torch.bmm(rows, rows.transpose(1, 2)), dim=2)


@full_precision
def ickd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared difference of the correlations between channels.

    .. math:: \frac{1}{B C} \sum_b \sum_{cd} (n(F^s_b F_b^{sT}) - n(F^t_b F_b^{tT}))_{cd}^2

    where F is (C, HW) and n divides each row by its L2 norm. The sizes of the maps need not agree.

    References:
        [0] Liu, Huang, Lin, Lian, Wang, Ma, Zhang, Qiao, Wu, Huang. Exploring Inter-Channel Correlation for
            Diversity-Preserved Knowledge Distillation. ICCV 2021.
        [1] ADLab-AutoDrive/ICKD, Cifar100/distiller_zoo/ICKD.py

    Differs from [1]: the teacher is detached inside.

    Args:
        student: Map in the teacher's number of channels, (B, C, H, W); :class:`ICKDLoss` owns the projection.
        teacher: Map, (B, C, H', W').

    Returns:
        Scalar; 0 where the correlations agree.

    Raises:
        ValueError: Different numbers of channels.

    Example:
        >>> import torch
        >>> x = torch.arange(8.0).view(1, 2, 2, 2)
        >>> ickd_loss(x, x).item()
        0.0
    """
    student, teacher = as_map(student), as_map(teacher).detach()
    check_channels(student, teacher, "ICKDLoss")
    difference = _correlation(student) - _correlation(teacher)
    return difference.square().sum() / (student.shape[0] * student.shape[1])


class ICKDLoss(nn.Module):
    """Module form of :func:`ickd_loss`: 1x1 convolution and batch normalisation project the student's map."""

    embed: nn.Sequential

    def build(self, student: Tensor, teacher: Tensor) -> None:
        """Create the projection from the shapes; [1] has it also where the channels agree."""
        student, teacher = as_map(student), as_map(teacher)
        width = teacher.shape[1]
        embed = nn.Sequential(nn.Conv2d(student.shape[1], width, 1, bias=False), BatchNorm(width))
        self.embed = to_like(embed, student)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`ickd_loss`; the numbers of channels may differ."""
        return ickd_loss(self.embed(as_map(student)), teacher)
