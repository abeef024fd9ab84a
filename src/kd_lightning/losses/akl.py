"""Adaptive Kullback-Leibler divergence (Wu et al., 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.tokens import check_fraction, token_kl, token_log_probs, token_mean


@torch.no_grad()
def _forward_weight(log_teacher: Tensor, log_student: Tensor, head_mass: float) -> Tensor:
    """Share of the head in the absolute gap of the probabilities, (...); 0 where there is no gap."""
    teacher, student = log_teacher.exp(), log_student.exp()
    ordered = teacher.sort(dim=-1, descending=True).values
    size = (ordered.cumsum(-1) <= head_mass).sum(-1, keepdim=True).clamp(min=1)
    head = teacher >= ordered.gather(-1, size - 1)
    gap = (teacher - student).abs()
    total = gap.sum(-1)
    return (gap * head).sum(-1) / total.clamp(min=torch.finfo(total.dtype).tiny)


@full_precision
def akl_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    head_mass: float = 0.5,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
) -> Tensor:
    r"""Forward and reverse KL, weighted at each token by where student and teacher differ.

    .. math:: \operatorname{mean}_\text{tokens}\; \frac{g_h}{g_h + g_t}\,\mathrm{KL}(p_t \| p_s) +
        \frac{g_t}{g_h + g_t}\,\mathrm{KL}(p_s \| p_t), \qquad g = \sum |p_t - p_s|

    over the head (h) and the tail (t) of the vocabulary. The head is the teacher's most probable entries whose
    cumulative probability stays within ``head_mass``, at least the first. The weights carry no gradient.

    References:
        [0] Wu, Tao, Wang, Yang, Zhao, Wong. Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large
            Language Models. COLING 2025.
        [1] wutaiqiang/LLM_KD_AKL, AKL.py

    Differs from [1]: 0 instead of nan where the two distributions are equal or every position is masked; entries tied
    with the last of the head belong to it; a temperature.

    Args:
        student: Student logits, (..., V), already shifted for causal models.
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        head_mass: Probability mass of the head, between 0 and 1.
        temperature: Divides the logits of both.
        scale_by_temperature: Multiply by the temperature squared.

    Returns:
        Scalar; 0 where student and teacher agree or no position is valid.

    Raises:
        ValueError: Where shapes differ or the mass is outside [0, 1].

    Example:
        >>> import torch
        >>> akl_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])).item()
        0.0
    """
    check_fraction("head_mass", head_mass)
    log_student, log_teacher = token_log_probs(student, teacher, temperature)
    weight = _forward_weight(log_teacher, log_student, head_mass)
    divergence = weight * token_kl(log_teacher, log_student) + (1 - weight) * token_kl(log_student, log_teacher)
    return token_mean(divergence, mask, temperature, scale_by_temperature)


class AKLLoss(nn.Module):
    """Module form of :func:`akl_loss`."""

    def __init__(self, head_mass: float = 0.5, temperature: float = 1.0, scale_by_temperature: bool = True) -> None:
        super().__init__()
        self.head_mass = head_mass
        self.temperature = temperature
        self.scale_by_temperature = scale_by_temperature

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`akl_loss`."""
        return akl_loss(
            student,
            teacher,
            mask,
            head_mass=self.head_mass,
            temperature=self.temperature,
            scale_by_temperature=self.scale_by_temperature,
        )
