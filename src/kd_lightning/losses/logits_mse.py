"""Squared error between logits (Ba and Caruana, 2014)."""

from __future__ import annotations

from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.logits import logit_pair


@full_precision
def logits_mse_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    standardize: bool = False,
) -> Tensor:
    r"""Mean squared difference of the logits.

    .. math:: \operatorname{mean}_{b,c} \left(\frac{z^s_{bc} - z^t_{bc}}{T}\right)^2

    The limit of :func:`~kd_lightning.losses.kd.kd_loss` for a large temperature, up to a factor and to the means of
    the logits. There is no T squared: it would cancel the division.

    References:
        [0] Ba, Caruana. Do Deep Nets Really Need to be Deep? NeurIPS 2014.
        [1] airaria/TextBrewer, src/textbrewer/losses.py: kd_mse_loss

    Differs from [1]: positions can be masked.

    Args:
        student: Student logits, (..., C).
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        temperature: Divides the logits.
        standardize: Z-score both logits first.

    Returns:
        Scalar, in squared logits; 0 where student and teacher agree.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> logits_mse_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])).item()
        2.0
    """
    student, teacher = logit_pair(student, teacher, standardize)
    return masked_mean(((student - teacher) / temperature).square().mean(-1), mask)


class LogitsMSELoss(nn.Module):
    """Module form of :func:`logits_mse_loss`."""

    def __init__(self, temperature: float = 1.0, standardize: bool = False) -> None:
        super().__init__()
        self.temperature = temperature
        self.standardize = standardize

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`logits_mse_loss`."""
        return logits_mse_loss(student, teacher, mask, temperature=self.temperature, standardize=self.standardize)
