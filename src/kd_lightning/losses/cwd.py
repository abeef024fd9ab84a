"""Channel-wise distillation (Shu et al., 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, match_spatial
from kd_lightning.losses.ops.layers import check_built, conv1x1
from kd_lightning.losses.ops.maps import Maps, check_channels, pair_maps


@full_precision
def cwd_loss(
    student: Maps,
    teacher: Maps,
    *,
    temperature: float = 4.0,
) -> Tensor:
    r"""Divergence between the spatial distributions of each channel.

    .. math:: \frac{T^2}{B C} \sum_{bc} \sum_{i} \phi(F^t_{bc})_i \log \frac{\phi(F^t_{bc})_i}{\phi(F^s_{bc})_i},
        \qquad \phi(x) = \operatorname{softmax}_{hw}(x / T)

    summed over the maps where several are given.

    References:
        [0] Shu, Liu, Gao, Yan, Shen. Channel-wise Knowledge Distillation for Dense Prediction. ICCV 2021.
        [1] irfanICMLL/TorchDistiller, SemSeg-distill/utils/criterion.py (CriterionCWD)

    Differs from [1]: computed from log-softmax, where [1] takes the logarithm of a softmax; the larger map is
    average-pooled where the sizes differ.

    Args:
        student: Map (B, C, H, W), tokens (B, N, C), or a list of them.
        teacher: Maps with the same numbers of channels.
        temperature: Softening T of the spatial distribution, larger is flatter; the loss is scaled by T squared.

    Returns:
        Scalar; 0 where the maps agree up to a constant for each channel.

    Raises:
        ValueError: Different numbers of maps or channels.

    Example:
        >>> import torch
        >>> x = torch.arange(8.0).view(1, 2, 2, 2)
        >>> round(abs(cwd_loss(x, x + 1.0).item()), 6)
        0.0
    """
    losses = []
    for source, target in pair_maps(student, teacher):
        check_channels(source, target, "CWDLoss")
        source, target = match_spatial(source, target)
        log_s, log_t = (F.log_softmax(x.flatten(2) / temperature, dim=-1) for x in (source, target))
        losses.append(F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(-1).mean())
    return torch.stack(losses).sum() * temperature**2


class CWDLoss(nn.Module):
    """Module form of :func:`cwd_loss`; a 1x1 convolution projects the student's channels where they differ.

    Args:
        temperature: See :func:`cwd_loss`.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.align = nn.ModuleList()

    def build(self, student: Maps, teacher: Maps) -> None:
        """Create the projections from the shapes."""
        self.align = nn.ModuleList(conv1x1(s, t) for s, t in pair_maps(student, teacher))

    def forward(self, student: Maps, teacher: Maps) -> Tensor:
        """See :func:`cwd_loss`; the numbers of channels may differ."""
        pairs = pair_maps(student, teacher)
        check_built(self.align, len(pairs))
        aligned = [align(s) for align, (s, _) in zip(self.align, pairs, strict=True)]
        return cwd_loss(aligned, [t for _, t in pairs], temperature=self.temperature)
