"""Universal self-knowledge distillation (Yang et al., ICCV 2023): soft labels without a teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.cross_entropy import cross_entropy_loss
from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.layers import to_like
from kd_lightning.losses.ops.logits import pick, split_target, without_target
from kd_lightning.losses.ops.maps import as_map


def _zipf_labels(student: Tensor, weak: Tensor, target: Tensor) -> Tensor:
    """Soft labels of the other classes by rank, (..., C): 1/rank over their sum, 0 at the target."""
    log_student, weak = F.log_softmax(student, dim=-1), F.softmax(weak, dim=-1)

    def normalised(x: Tensor) -> Tensor:
        return x / (1 - pick(x, target).unsqueeze(-1) + 1e-6)

    rank = (normalised(weak) + normalised(log_student)).argsort(dim=-1, descending=True).argsort(dim=-1)
    zipf = (1 / (rank + 1).to(student.dtype)).scatter(-1, target.unsqueeze(-1), 0.0)
    return zipf / zipf.sum(-1, keepdim=True)


@full_precision
def uskd_loss(
    student: Tensor,
    weak: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 0.1,
    mu: float = 0.005,
) -> Tensor:
    r"""Customised soft labels for the target class and, by rank, for the others.

    .. math:: - \alpha \operatorname{mean}_b \left(1 + p_y^2 - \operatorname{mean}_b p_y^2\right) \log p_y
        - \beta \operatorname{mean}_b \sum_{c \neq y} q_c \log \hat p_c
        + \mu \operatorname{CE}_{0.1}(w, y)

    q follows Zipf's law in the rank of the class, :math:`q_c \propto 1 / r_c`; the rank comes from the student's
    logits and from a weak classifier on a middle layer, which is trained by the last term (label smoothing 0.1). The
    soft labels carry no gradient.

    References:
        [0] Yang, Zeng, Li, Zhang, Yuan, Li. From Knowledge Distillation to Self-Knowledge Distillation: A Unified
            Approach with Normalized Loss and Customized Soft Labels. ICCV 2023.
        [1] yzd-v/cls_KD, mmcls/models/dis_losses/uskd.py

    Differs from [1]: hard labels only; positions can be masked. As in [1] the student enters the rank by its
    log-probabilities, where [0] has probabilities.

    Args:
        student: Student logits, (..., C) with C > 1.
        weak: Logits of the weak classifier, same shape.
        target: Class, (...), int64; positions with -100 are ignored.
        mask: Valid positions, (...); None for all of them.
        alpha: Weight of the target class.
        beta: Weight of the other classes.
        mu: Weight of the weak classifier's supervision.

    Returns:
        Scalar.

    Example:
        >>> import torch
        >>> z = torch.zeros(1, 2)
        >>> round(uskd_loss(z, z, torch.tensor([0]), mu=0.0).item(), 4)  # one other class: log(2) of the target
        0.6931
    """
    target, mask = split_target(target, mask)
    log_target = pick(F.log_softmax(student, dim=-1), target)
    with torch.no_grad():
        squared = log_target.exp().square()
        soft_target = 1 + squared - masked_mean(squared, mask)
        others = _zipf_labels(student, weak, target)
    _, log_others = without_target(student, target)
    loss = alpha * masked_mean(-soft_target * log_target, mask)
    loss = loss + beta * masked_mean(-(others * log_others).sum(-1), mask)
    return loss + mu * cross_entropy_loss(weak, target, mask, label_smoothing=0.1)


class USKDLoss(nn.Module):
    """:func:`uskd_loss` with the weak classifier on a middle layer of the student.

    Args:
        alpha: Weight of the target class.
        beta: Weight of the other classes.
        mu: Weight of the weak classifier's supervision.
    """

    classifier: nn.Linear

    def __init__(self, alpha: float = 1.0, beta: float = 0.1, mu: float = 0.005) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.mu = mu

    def build(self, student: Tensor, feature: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Create the weak classifier from the shapes of the feature and the logits."""
        self.classifier = to_like(nn.Linear(as_map(feature).shape[1], student.shape[-1]), feature)

    def forward(self, student: Tensor, feature: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`uskd_loss`; ``feature`` is a map (B, D, H, W), tokens (B, T, D) or a vector (B, D)."""
        weak = self.classifier(as_map(feature).mean((2, 3)))
        return uskd_loss(student, weak, target, mask, alpha=self.alpha, beta=self.beta, mu=self.mu)
