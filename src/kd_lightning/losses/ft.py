"""Factor transfer (Kim et al., 2018)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, match_spatial
from kd_lightning.losses.ops.layers import to_like
from kd_lightning.losses.ops.maps import Maps, check_same_shape, pair_maps


@full_precision
def ft_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean absolute difference of the normalised factors.

    .. math:: \operatorname{mean} \lvert v^s - v^t \rvert, \qquad v = \frac{\operatorname{vec}(f)}{\lVert f \rVert_2}

    References:
        [0] Kim, Park, Kwak. Paraphrasing Complex Network: Network Compression via Factor Transfer. NeurIPS 2018.
        [1] Jangho-Kim/Factor-Transfer-pytorch, utils.py (FT) and train_student.py

    Differs from [1]: the teacher is detached inside; factors of different sizes are pooled to the smaller one.

    Args:
        student: Student's factor, the translator's output, (B, C, H, W).
        teacher: Teacher's factor, the paraphraser's code, of the same channels.

    Returns:
        Scalar; 0 where the factors agree up to a positive scale of each sample.

    Raises:
        ValueError: Where the batch sizes or the channels differ.

    Example:
        >>> import torch
        >>> factor = torch.ones(2, 3, 4, 4)
        >>> ft_loss(factor, 2 * factor).item()
        0.0
    """
    ((s, t),) = pair_maps(student, teacher)
    s, t = match_spatial(s, t)
    check_same_shape(s, t, 0)
    return F.l1_loss(F.normalize(s.flatten(1), dim=1), F.normalize(t.flatten(1), dim=1))


def _encoder(channels: int, factors: int) -> nn.Sequential:
    """Three 3x3 convolutions, each with a leaky ReLU."""
    widths = [(channels, channels), (channels, factors), (factors, factors)]
    return nn.Sequential(*(m for i, o in widths for m in (nn.Conv2d(i, o, 3, padding=1), nn.LeakyReLU(0.1))))


def _decoder(factors: int, channels: int) -> nn.Sequential:
    """Three transposed 3x3 convolutions, each with a leaky ReLU."""
    widths = [(factors, factors), (factors, channels), (channels, channels)]
    return nn.Sequential(*(m for i, o in widths for m in (nn.ConvTranspose2d(i, o, 3, padding=1), nn.LeakyReLU(0.1))))


class Paraphraser(nn.Module):
    """Autoencoder of the teacher's map whose code is the teacher's factor.

    Args:
        channels: Channels of the teacher's map.
        factors: Channels of the factor.
    """

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = _encoder(channels, factors)
        self.decoder = _decoder(factors, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The factor (B, factors, H, W) and the reconstruction (B, channels, H, W)."""
        factor = self.encoder(x)
        return factor, self.decoder(factor)


class FTLoss(nn.Module):
    """:func:`ft_loss` with its translator (student's side) and paraphraser (teacher's side).

    The value is ``transfer + reconstruction * L1(paraphraser(f_t), f_t)``. The transfer trains the student and the
    translator, the reconstruction the paraphraser; neither reaches the other's parameters. So whether the paraphraser
    is trained first, as published, or along with the student is a matter of the method's ``stages``. A paraphraser
    that is frozen (no parameter requires a gradient) is not reconstructed.

    Args:
        rate: Channels of the factor as a share of the teacher's channels, the paper's k.
        reconstruction: Weight of the reconstruction relative to the transfer. The published weights are 500 for the
            transfer and 1 for the reconstruction, hence 1/500 under a term's weight of 500.
    """

    paraphraser: Paraphraser
    translator: nn.Sequential

    def __init__(self, rate: float = 0.5, reconstruction: float = 0.002) -> None:
        super().__init__()
        if not rate > 0:
            raise ValueError(f"ft: rate is {rate}; it must be above 0, 0.5 is published.")
        self.rate = rate
        self.reconstruction = reconstruction

    def build(self, student: Maps, teacher: Maps) -> None:
        """Create the paraphraser and the translator from example maps."""
        ((s, t),) = pair_maps(student, teacher)
        factors = max(1, round(t.shape[1] * self.rate))
        self.paraphraser = to_like(Paraphraser(t.shape[1], factors), t)
        self.translator = to_like(_encoder(s.shape[1], factors), s)

    def forward(self, student: Maps, teacher: Maps) -> Tensor:
        """See :func:`ft_loss`; student's and teacher's maps (B, C, H, W), the last before the pooling as published."""
        if not hasattr(self, "paraphraser"):
            raise ValueError("ft: the loss is not built yet; call build(...) once with example tensors.")
        ((s, t),) = pair_maps(student, teacher)
        factor, rebuilt = self.paraphraser(t)
        transfer = ft_loss(self.translator(s), factor)
        if self.reconstruction == 0 or not any(p.requires_grad for p in self.paraphraser.parameters()):
            return transfer
        return transfer + self.reconstruction * F.l1_loss(rebuilt.to(transfer), t.to(transfer))
