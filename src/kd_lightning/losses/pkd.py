"""Distillation by the Pearson correlation of feature maps (Cao et al., 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.layers import check_built, conv1x1
from kd_lightning.losses.ops.maps import Maps, check_channels, pair_maps


def _standardise(features: Tensor) -> Tensor:
    """Zero mean and unit deviation for each channel, over batch and positions; (C, B * H * W)."""
    rows = features.transpose(0, 1).flatten(1)
    # A single value has no deviation: without Bessel's correction it is 0, not nan.
    deviation = rows.std(1, keepdim=True, correction=min(1, rows.shape[1] - 1))
    return (rows - rows.mean(1, keepdim=True)) / (deviation + 1e-6)


@full_precision
def pkd_loss(student: Maps, teacher: Maps) -> Tensor:
    r"""Half the squared error of standardised maps: one minus the Pearson correlation of each channel.

    .. math:: \tfrac12 \operatorname{mean}_{bchw} (\hat F^s - \hat F^t)^2 = \operatorname{mean}_c (1 - \rho_c)

    up to the correction n / (n - 1); each channel is standardised over batch and positions. Summed over the maps
    where several are given. Insensitive to the scale and offset of a channel, so it suits unlike architectures.

    References:
        [0] Cao, Zhang, Gao, Cheng, Cheng, Zhang. PKD: General Distillation Framework for Object Detectors via Pearson
            Correlation Coefficient. NeurIPS 2022.
        [1] open-mmlab/mmrazor, mmrazor/models/losses/pkd_loss.py

    Differs from [1]: the teacher is detached inside; a batch with a single value for each channel gives 0; the
    student's map is also resized where only the widths differ.

    Args:
        student: Map (B, C, H, W), tokens (B, N, C), or a list of them; resized bilinearly to the teacher's size.
        teacher: Maps with the same numbers of channels.

    Returns:
        Scalar; 0 where every channel of the student is an increasing linear function of the teacher's.

    Raises:
        ValueError: Different numbers of maps or channels.

    Example:
        >>> import torch
        >>> x = torch.arange(8.0).view(2, 1, 2, 2)
        >>> round(pkd_loss(3 * x + 1, x).item(), 6)
        0.0
    """
    losses = []
    for source, target in pair_maps(student, teacher):
        check_channels(source, target, "PKDLoss")
        if source.shape[2:] != target.shape[2:]:
            source = F.interpolate(source, target.shape[2:], mode="bilinear")
        losses.append(F.mse_loss(_standardise(source), _standardise(target)) / 2)
    return torch.stack(losses).sum()


class PKDLoss(nn.Module):
    """Module form of :func:`pkd_loss`; a 1x1 convolution projects the student's channels where they differ."""

    def __init__(self) -> None:
        super().__init__()
        self.align = nn.ModuleList()

    def build(self, student: Maps, teacher: Maps) -> None:
        """Create the projections from the shapes."""
        self.align = nn.ModuleList(conv1x1(s, t) for s, t in pair_maps(student, teacher))

    def forward(self, student: Maps, teacher: Maps) -> Tensor:
        """See :func:`pkd_loss`; the numbers of channels may differ."""
        pairs = pair_maps(student, teacher)
        check_built(self.align, len(pairs))
        aligned = [align(s) for align, (s, _) in zip(self.align, pairs, strict=True)]
        return pkd_loss(aligned, [t for _, t in pairs])
