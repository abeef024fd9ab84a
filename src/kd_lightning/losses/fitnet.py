"""FitNets: hints from a teacher's middle layer (Romero et al., 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, match_spatial
from kd_lightning.losses.ops.layers import ConvRegressor, check_built
from kd_lightning.losses.ops.maps import Maps, check_same_shape, pair_maps


@full_precision
def fitnet_loss(student: Maps, teacher: Maps) -> Tensor:
    r"""Mean squared error between a (regressed) student map and the teacher's map.

    .. math:: \operatorname{mean}_{bchw} (r(f^s)_{bchw} - f^t_{bchw})^2

    References:
        [0] Romero et al. FitNets: Hints for Thin Deep Nets. ICLR 2015.
        [1] HobbitLong/RepDistiller, distiller_zoo/FitNet.py and models/util.py (ConvReg)

    Differs from [1]: the teacher is detached inside; maps of different sizes are pooled to the smaller one; several
    stages may be given and are summed.

    Args:
        student: Student's map after the regressor, (B, C, H, W) or (B, D), or a list of them.
        teacher: Teacher's map of the same channels, or a list of them.

    Returns:
        Scalar; 0 where the maps agree.

    Raises:
        ValueError: Where the numbers of stages, the batch sizes or the channels differ.

    Example:
        >>> import torch
        >>> fitnet_loss(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)).item()
        1.0
    """
    losses = []
    for i, (s, t) in enumerate(pair_maps(student, teacher)):
        s, t = match_spatial(s, t)
        check_same_shape(s, t, i)
        losses.append((s - t).square().mean())
    return torch.stack(losses).sum()


class FitNetLoss(nn.Module):
    """:func:`fitnet_loss` with a trained regressor (convolution, batch norm, ReLU) for every stage.

    The ReLU after the batch norm is [1]'s: values of the teacher below zero can never be reached, so give maps after
    their activation, or set ``relu`` to False.

    Args:
        relu: End the regressor in a ReLU.
    """

    def __init__(self, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.regressors = nn.ModuleList()

    def build(self, student: Maps, teacher: Maps) -> None:
        """Create the regressors from example maps."""
        self.regressors = nn.ModuleList(ConvRegressor(s, t, self.relu) for s, t in pair_maps(student, teacher))

    def forward(self, student: Maps, teacher: Maps) -> Tensor:
        """See :func:`fitnet_loss`; the student's maps are not yet regressed."""
        pairs = pair_maps(student, teacher)
        check_built(self.regressors, len(pairs))
        regressed = [r(s) for r, (s, _) in zip(self.regressors, pairs, strict=True)]
        return fitnet_loss(regressed, [t for _, t in pairs])
