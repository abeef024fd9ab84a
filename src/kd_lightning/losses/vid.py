"""Variational information distillation (Ahn et al., 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, match_spatial
from kd_lightning.losses.ops.layers import check_built, to_like
from kd_lightning.losses.ops.maps import Maps, check_same_shape, pair_maps


@full_precision
def vid_loss(student: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    r"""Negative log-likelihood of the teacher's map under a Gaussian predicted from the student's, less its constant.

    .. math:: \operatorname{mean}_{bchw} \tfrac{1}{2} \left( \frac{(\mu(f^s) - f^t)^2}{\sigma_c^2}
        + \log \sigma_c^2 \right)

    References:
        [0] Ahn et al. Variational Information Distillation for Knowledge Transfer. CVPR 2019.
        [1] HobbitLong/RepDistiller, distiller_zoo/VID.py (after the authors' code)

    Differs from [1]: the teacher is detached inside; maps need not be square; the variance does not overflow.

    Args:
        student: Predicted mean, (B, C, H, W).
        teacher: Teacher's map, same shape.
        variance: Predicted variance of each channel, (C,), positive.

    Returns:
        Scalar; may be negative.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> vid_loss(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4), torch.ones(3)).item()
        0.5
    """
    check_same_shape(student, teacher, 0)
    variance = variance.reshape(1, -1, 1, 1)
    return 0.5 * ((student - teacher.detach()).square() / variance + variance.log()).mean()


def _regressor(student: int, teacher: int) -> nn.Sequential:
    """From the student's to the teacher's channels."""
    return nn.Sequential(
        nn.Conv2d(student, teacher, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(teacher, teacher, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(teacher, teacher, 1, bias=False),
    )


class VIDLoss(nn.Module):
    r""":func:`vid_loss` summed over the stages, with trained means and variances.

    The mean is three 1x1 convolutions without bias and ReLUs between them, as wide as the teacher's map; the variance
    of a channel is :math:`\log(1 + e^\rho) + \epsilon`.

    Args:
        init_variance: Variance at the start.
        eps: Smallest variance.
    """

    def __init__(self, init_variance: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__()
        if init_variance <= eps:
            raise ValueError(f"vid: init_variance is {init_variance} and must be above eps, {eps}.")
        self.init_variance = init_variance
        self.eps = eps
        self.regressors = nn.ModuleList()
        self.log_scales = nn.ParameterList()

    def build(self, student: Maps, teacher: Maps) -> None:
        """Create a regressor and the variances for every stage from example maps."""
        pairs = pair_maps(student, teacher)
        rho = math.log(math.expm1(self.init_variance - self.eps))
        self.regressors = nn.ModuleList(_regressor(s.shape[1], t.shape[1]) for s, t in pairs)
        self.log_scales = nn.ParameterList(torch.full((t.shape[1],), rho) for _, t in pairs)
        to_like(self, pairs[0][0])

    def forward(self, student: Maps, teacher: Maps) -> Tensor:
        """See :func:`vid_loss`; the student's maps are not yet regressed, and either side may be a list."""
        pairs = pair_maps(student, teacher)
        check_built(self.regressors, len(pairs))
        losses = []
        for (s, t), regressor, rho in zip(pairs, self.regressors, self.log_scales, strict=True):
            s, t = match_spatial(s, t)
            variance = torch.logaddexp(rho, torch.zeros_like(rho)) + self.eps
            losses.append(vid_loss(regressor(s), t, variance))
        return torch.stack(losses).sum()
