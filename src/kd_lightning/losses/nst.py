"""Neuron selectivity transfer (Huang and Wang, 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, match_spatial
from kd_lightning.losses.ops.maps import Maps, pair_maps


def _kernel_mean(a: Tensor, b: Tensor) -> Tensor:
    """Mean over samples and pairs of channels of the squared inner product; a (B, C, HW), b (B, C', HW)."""
    return torch.bmm(a, b.transpose(1, 2)).square().mean()


@full_precision
def nst_loss(student: Maps, teacher: Maps) -> Tensor:
    r"""Squared maximum mean discrepancy between the channels' spatial patterns, summed over the stages.

    .. math:: \sum_{stages} \overline{k(t, t)} + \overline{k(s, s)} - 2\,\overline{k(s, t)}, \qquad
        k(a, b) = (a^\top b)^2

    with every channel's map normalised to unit length over its H * W positions, and means over samples and pairs of
    channels. Channels may differ; where the sizes differ, the larger map is average-pooled to the smaller one.

    References:
        [0] Huang, Wang. Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. 2017.
        [1] HobbitLong/RepDistiller, distiller_zoo/NST.py (the authors' code is unpublished)

    Differs from [1]: the teacher is detached inside; maps need not be square.

    Args:
        student: Student's maps after each stage, (B, C, H, W), or one map.
        teacher: Teacher's maps of the same stages.

    Returns:
        Scalar, at least 0 up to rounding; 0 where the maps agree.

    Raises:
        ValueError: Where the numbers of stages or the batch sizes differ.

    Example:
        >>> import torch
        >>> maps = torch.eye(4).reshape(1, 4, 2, 2)
        >>> nst_loss(maps, maps).item()
        0.0
    """
    losses = []
    for s, t in pair_maps(student, teacher):
        s, t = (F.normalize(x.flatten(2), dim=2) for x in match_spatial(s, t))
        losses.append(_kernel_mean(t, t) + _kernel_mean(s, s) - 2 * _kernel_mean(s, t))
    return torch.stack(losses).sum()


class NSTLoss(nn.Module):
    """Module form of :func:`nst_loss`."""

    def forward(self, student: Maps, teacher: Maps) -> Tensor:
        """See :func:`nst_loss`."""
        return nst_loss(student, teacher)
