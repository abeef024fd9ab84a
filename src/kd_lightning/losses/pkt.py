"""Probabilistic knowledge transfer (Passalis and Tefas, 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision

EPS = 1e-7


def _neighbours(x: Tensor) -> Tensor:
    """(B, ...) -> (B, B): for each sample the probability of every sample, by cosine similarity."""
    x = x.flatten(1)
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    # A sample of zeros has no direction; without the mask its gradient would be divided by EPS.
    unit: Tensor = (x / (norm + EPS)).masked_fill(norm == 0, 0.0)
    similarity: Tensor = ((unit @ unit.T + 1) / 2).clamp(min=0)  # rounding may reach below -1
    return similarity / similarity.sum(dim=1, keepdim=True)


@full_precision
def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Divergence between the student's and the teacher's neighbourhood probabilities in a batch.

    .. math:: \frac{1}{B^2} \sum_{ij} p^t_{ij} \log \frac{p^t_{ij} + \epsilon}{p^s_{ij} + \epsilon}, \qquad
        p_{ij} \propto \frac{\cos(x_i, x_j) + 1}{2}

    References:
        [0] Passalis, Tefas. Learning Deep Representations with Probabilistic Knowledge Transfer. ECCV 2018.
        [1] passalis/probabilistic_kt, nn/pkt.py

    The mean runs over all B squared pairs, as in [1]: a divergence per sample divided by B once more, hence the large
    published weights.

    Differs from [1]: the teacher is detached inside; a sample of zeros gets no gradient, where [1] has nan.

    Args:
        student: Student features, (B, D_s) or (B, ...), flattened per sample.
        teacher: Teacher features, (B, D_t) or (B, ...); the width may differ.

    Returns:
        Scalar; 0 where the probabilities agree and for a batch of one.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> pkt_loss(x, x).item()
        0.0
    """
    p_student, p_teacher = _neighbours(student), _neighbours(teacher.detach())
    return (p_teacher * ((p_teacher + EPS).log() - (p_student + EPS).log())).mean()


class PKTLoss(nn.Module):
    """Module form of :func:`pkt_loss`."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`pkt_loss`."""
        return pkt_loss(student, teacher)
