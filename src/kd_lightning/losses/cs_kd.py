"""Class-wise self-distillation (Yun et al., CVPR 2020)."""

from __future__ import annotations

from torch import Tensor, nn

from kd_lightning.losses.kd import kd_loss


def cs_kd_loss(
    student: Tensor,
    partner: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 4.0,
    standardize: bool = False,
) -> Tensor:
    r"""Divergence of a sample's prediction from the student's own prediction for another sample of the same class.

    .. math:: T^2 \operatorname{mean}_b \mathrm{KL}(p(x'_b) \| p(x_b)), \qquad p = \operatorname{softmax}(z / T)

    References:
        [0] Yun, Park, Lee, Shin. Regularizing Class-wise Predictions via Self-knowledge Distillation. CVPR 2020.
        [1] alinlab/cs-kd, train.py

    Differs from [1]: positions can be masked.

    Args:
        student: Logits of the samples, (..., C).
        partner: Logits of their partners, same shape; detached inside.
        mask: Valid pairs, (...); None for all of them.
        temperature: Softening T; scaled by T squared.
        standardize: Z-score both logits first.

    Returns:
        Scalar; 0 where both predictions agree.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> cs_kd_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])).item()
        0.0
    """
    return kd_loss(student, partner, mask, temperature=temperature, standardize=standardize)


class CSKDLoss(nn.Module):
    """:func:`cs_kd_loss` on a batch that stacks [samples, partners], as the rollout ``ClassPairs`` does.

    Differs from the authors' code: samples and partners pass the net as one batch, not as two, so they share the
    batch-norm statistics.
    """

    def __init__(self, temperature: float = 4.0, standardize: bool = False) -> None:
        super().__init__()
        self.temperature = temperature
        self.standardize = standardize

    def forward(self, student: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`cs_kd_loss`; ``student`` holds both halves, (2B, ..., C), ``mask`` the pairs, (B, ...)."""
        if len(student) % 2:
            raise ValueError(
                f"CS-KD got {len(student)} rows, an odd number: it needs [samples, partners] stacked, which"
                " the rollout kd_lightning.core.rollouts.ClassPairs makes."
            )
        samples, partners = student.chunk(2)
        return cs_kd_loss(samples, partners, mask, temperature=self.temperature, standardize=self.standardize)
