"""Attention transfer (Zagoruyko and Komodakis, 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, match_spatial
from kd_lightning.losses.ops.maps import Maps, pair_maps


def _attention(x: Tensor, p: int) -> Tensor:
    """Spatial attention of a map, (B, C, H, W) -> (B, H * W), of unit length."""
    return F.normalize(x.pow(p).mean(1).flatten(1), dim=1)


@full_precision
def at_loss(student: Maps, teacher: Maps, *, p: int = 2) -> Tensor:
    r"""Squared difference of normalised spatial attention maps, summed over the stages.

    .. math:: \sum_{stages} \operatorname{mean}_{b,hw} (a^s - a^t)^2, \qquad
        a = \frac{q}{\lVert q \rVert_2}, \quad q = \operatorname{vec}(\operatorname{mean}_c f_c^p)

    Channels may differ; where the sizes differ, the larger map is average-pooled to the smaller one.

    References:
        [0] Zagoruyko, Komodakis. Paying More Attention to Attention. ICLR 2017.
        [1] szagoruyko/attention-transfer, utils.py; HobbitLong/RepDistiller, distiller_zoo/AT.py

    Differs from [1]: the teacher is detached inside; maps need not be square. [0] writes the norm of the difference;
    as in [1] the value is the mean of its squares, for which the published weight of 1000 is meant.

    Args:
        student: Student's maps after each stage, (B, C, H, W), or one map.
        teacher: Teacher's maps of the same stages.
        p: Power of the activations, a whole number; an odd one keeps the sign.

    Returns:
        Scalar; 0 where the attention maps agree.

    Raises:
        ValueError: Where the numbers of stages or the batch sizes differ, or ``p`` is not a positive whole number.

    Example:
        >>> import torch
        >>> maps = torch.ones(2, 3, 4, 4)
        >>> at_loss([maps], [2 * maps[:, :2]]).item()
        0.0
    """
    if p < 1 or p != int(p):
        raise ValueError(f"at: p is {p}, but negative activations have no such power: give 1, 2, 3, ...")
    losses = []
    for s, t in pair_maps(student, teacher):
        s, t = match_spatial(s, t)
        losses.append((_attention(s, p) - _attention(t, p)).square().mean())
    return torch.stack(losses).sum()


class ATLoss(nn.Module):
    """Module form of :func:`at_loss`."""

    def __init__(self, p: int = 2) -> None:
        super().__init__()
        self.p = p

    def forward(self, student: Maps, teacher: Maps) -> Tensor:
        """See :func:`at_loss`."""
        return at_loss(student, teacher, p=self.p)
