"""Minifinetuning (Belcak et al., 2025): the teacher's distribution, corrected towards the label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.logits import logit_pair, pick, split_target


def _corrected(probability: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Mix the one-hot label into the distribution (..., C) until the label leads by the threshold."""
    top, top_class = probability.max(-1)
    label = pick(probability, target)
    wrong = (top - label + threshold) / (1 + top - label + 1e-7)
    right = ((label + threshold).clamp(max=1) - top) / (1 - top + 1e-7)
    mix = torch.where(top_class == target, right, wrong).unsqueeze(-1)
    return (probability * (1 - mix)).scatter_add(-1, target.unsqueeze(-1), mix)


@full_precision
def mft_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    threshold: float = 0.2,
    temperature: float = 1.0,
    standardize: bool = False,
) -> Tensor:
    r"""Divergence from a teacher whose distribution is corrected so that the label leads by a threshold.

    .. math:: T^2 \operatorname{mean}_b \mathrm{KL}(q_b \| p^s_b), \qquad q = (1 - f) p^t + f \cdot \text{onehot}(y)

    with the smallest f in [0, 1] for which the label exceeds the teacher's (wrong) first choice by the threshold; where
    the teacher is right, its label is raised by the threshold, to at most 1.

    References:
        [0] Belcak, Heinrich, Kautz, Molchanov. Minifinetuning: Low-Data Generation Domain Adaptation through
            Corrective Self-Distillation. 2025 (arXiv 2506.15702).
        [1] NVIDIA/Model-Optimizer, modelopt/torch/distill/losses.py: MFTLoss

    Differs from [1]: positions can be masked or ignored.

    Args:
        student: Student logits, (..., C).
        teacher: Teacher logits, same shape; in [0] the model before fine-tuning.
        target: Class, (...), int64; positions with -100 are ignored.
        mask: Valid positions, (...); None for all of them.
        threshold: Lead of the label, in [0, 1].
        temperature: Softening T; scaled by T squared.
        standardize: Z-score both logits first.

    Returns:
        Scalar; 0 where the student equals the corrected teacher.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> z = torch.zeros(1, 2)  # the corrected teacher is (0.7, 0.3)
        >>> round(mft_loss(z, z, torch.tensor([0])).item(), 4)
        0.0823
    """
    student, teacher = logit_pair(student, teacher, standardize)
    target, mask = split_target(target, mask)
    corrected = _corrected(F.softmax(teacher / temperature, dim=-1), target, threshold)
    log_student = F.log_softmax(student / temperature, dim=-1)
    divergence = F.kl_div(log_student, corrected, reduction="none").sum(-1)
    return masked_mean(divergence, mask) * temperature**2


class MFTLoss(nn.Module):
    """Module form of :func:`mft_loss`."""

    def __init__(self, threshold: float = 0.2, temperature: float = 1.0, standardize: bool = False) -> None:
        super().__init__()
        self.threshold = threshold
        self.temperature = temperature
        self.standardize = standardize

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`mft_loss`."""
        return mft_loss(
            student,
            teacher,
            target,
            mask,
            threshold=self.threshold,
            temperature=self.temperature,
            standardize=self.standardize,
        )
