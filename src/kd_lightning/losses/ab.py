"""Distillation of activation boundaries (Heo et al., 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, match_spatial
from kd_lightning.losses.ops.layers import ConvRegressor, check_built
from kd_lightning.losses.ops.maps import Maps, check_same_shape, pair_maps


@full_precision
def ab_loss(student: Maps, teacher: Maps, *, margin: float = 1.0, scale: float = 3e-3) -> Tensor:
    r"""Squared hinge that puts the student's pre-activations on the teacher's side of zero, by a margin.

    .. math:: \sum_{i=1}^{n} \frac{scale}{2^{n-i} B} \sum_{bchw}
        \mathbb{1}[t \le 0] \max(s + m, 0)^2 + \mathbb{1}[t > 0] \max(m - s, 0)^2

    References:
        [0] Heo, Lee, Yun, Choi. Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
            Neurons. AAAI 2019.
        [1] bhheo/AB_distillation; HobbitLong/RepDistiller, distiller_zoo/AB.py

    Differs from [1]: maps of different sizes are pooled to the smaller one. The factor 3/1000, the division by the
    batch and the halving of earlier stages stand in [1]'s training script; here they are inside, as in RepDistiller.

    Args:
        student: Student's maps before the activation, (B, C, H, W), in the order of the stages, or one map.
        teacher: Teacher's maps before the activation, same channels.
        margin: Distance m that the student shall keep from zero.
        scale: Factor of the last stage; each earlier one has half of the next.

    Returns:
        Scalar; 0 where every pre-activation is on the right side by the margin.

    Raises:
        ValueError: Where the numbers of stages, the batch sizes or the channels differ.

    Example:
        >>> import torch
        >>> round(ab_loss(torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2), scale=1.0).item(), 4)
        4.0
    """
    pairs = pair_maps(student, teacher)
    losses = []
    for i, (s, t) in enumerate(pairs):
        s, t = match_spatial(s, t)
        check_same_shape(s, t, i)
        hinge = torch.where(t > 0, F.relu(margin - s), F.relu(s + margin))
        losses.append(scale * 2.0 ** (i + 1 - len(pairs)) * hinge.square().sum() / len(s))
    return torch.stack(losses).sum()


class ABLoss(nn.Module):
    """:func:`ab_loss` with a trained connector (convolution, batch norm) where the student's shape is another.

    Args:
        margin: Distance that the student shall keep from zero.
        scale: Factor of the last stage.
    """

    def __init__(self, margin: float = 1.0, scale: float = 3e-3) -> None:
        super().__init__()
        self.margin = margin
        self.scale = scale
        self.connectors = nn.ModuleList()

    def build(self, student: Maps, teacher: Maps) -> None:
        """Create the connectors from example maps; stages of equal shape need none."""
        self.connectors = nn.ModuleList(
            nn.Identity() if s.shape[1:] == t.shape[1:] else ConvRegressor(s, t, relu=False)
            for s, t in pair_maps(student, teacher)
        )

    def forward(self, student: Maps, teacher: Maps) -> Tensor:
        """See :func:`ab_loss`; the student's maps are not yet connected."""
        pairs = pair_maps(student, teacher)
        check_built(self.connectors, len(pairs))
        connected = [c(s) for c, (s, _) in zip(self.connectors, pairs, strict=True)]
        return ab_loss(connected, [t for _, t in pairs], margin=self.margin, scale=self.scale)
