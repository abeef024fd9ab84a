"""Distillation from a stronger teacher (Huang et al., NeurIPS 2022): correlations instead of equal probabilities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.logits import logit_pair


def _cosine(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Cosine of centred vectors; 1e-8 is added to the product of the norms, so a constant vector gives 0."""
    norms: Tensor = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    return (a * b).sum(dim) / (norms + 1e-8)


@full_precision
def dist_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    standardize: bool = False,
) -> Tensor:
    r"""One minus Pearson's correlation of the softened probabilities, within samples and within classes.

    .. math:: \beta T^2 (1 - \operatorname{mean}_b \rho(p^s_{b,:}, p^t_{b,:}))
        + \gamma T^2 (1 - \operatorname{mean}_c \rho(p^s_{:,c}, p^t_{:,c})), \qquad p = \operatorname{softmax}(z / T)

    References:
        [0] Huang, You, Wang, Qian, Xu. Knowledge Distillation from A Stronger Teacher. NeurIPS 2022.
        [1] hunto/image_classification_sota, lib/models/losses/dist_kd.py

    Differs from [1]: positions can be masked; leading dimensions count as samples; the teacher is detached inside.

    Args:
        student: Student logits, (..., C).
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        beta: Weight of the correlation within samples (inter-class relation).
        gamma: Weight of the correlation within classes over the batch (intra-class relation).
        temperature: Softening T; both terms are scaled by T squared.
        standardize: Z-score both logits first.

    Returns:
        Scalar; 0 where student and teacher agree, up to the 1e-8 beside the norms. In a batch of one the second
        term is the constant gamma T squared.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> z = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 1.0]])
        >>> round(dist_loss(z, z).item(), 4)
        0.0
    """
    student, teacher = logit_pair(student, teacher, standardize)
    valid = torch.ones_like(student[..., :1], dtype=torch.bool) if mask is None else mask.bool().unsqueeze(-1)
    valid = valid.flatten(0, -2)
    # Masked rows are zeroed before anything is computed from them: they may hold anything, and 0 * nan is nan.
    student, teacher = ((z / temperature).flatten(0, -2).where(valid, 0.0).softmax(-1) for z in (student, teacher))
    count = valid.sum()

    within_samples = _cosine(student - student.mean(1, True), teacher - teacher.mean(1, True), dim=1)
    inter = masked_mean(1 - within_samples, valid[:, 0])

    def centre(x: Tensor) -> Tensor:
        return (x - (x * valid).sum(0) / count.clamp(min=1)) * valid

    intra = 1 - _cosine(centre(student), centre(teacher), dim=0).mean()
    return (beta * inter + gamma * intra * count.clamp(max=1)) * temperature**2


class DISTLoss(nn.Module):
    """Module form of :func:`dist_loss`."""

    def __init__(
        self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0, standardize: bool = False
    ) -> None:
        super().__init__()
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature
        self.standardize = standardize

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`dist_loss`."""
        return dist_loss(
            student,
            teacher,
            mask,
            beta=self.beta,
            gamma=self.gamma,
            temperature=self.temperature,
            standardize=self.standardize,
        )
