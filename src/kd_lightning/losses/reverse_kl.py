"""Reverse Kullback-Leibler divergence over tokens (Gu et al., 2024)."""

from __future__ import annotations

from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.tokens import token_kl, token_log_probs, token_mean


@full_precision
def reverse_kl_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
) -> Tensor:
    r"""Divergence of the teacher's from the student's next-token distribution; seeks the teacher's modes.

    .. math:: T^2 \cdot \operatorname{mean}_\text{tokens} \sum_v p_s \log \frac{p_s}{p_t}

    Also MiniLLM's single-step regularisation, where the tokens are the student's own samples.

    References:
        [0] Gu, Dong, Wei, Huang. MiniLLM: Knowledge Distillation of Large Language Models. ICLR 2024.
        [1] jongwooko/distillm, distillm/losses.py (reverse_kl); microsoft/LMOps, minillm/minillm/losses.py (_reg_loss)

    Differs from [1]: a temperature; 0 instead of nan where every position is masked; finite gradient where a
    vocabulary entry is -inf.

    Args:
        student: Student logits, (..., V), already shifted for causal models.
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        temperature: Divides the logits of both.
        scale_by_temperature: Multiply by the temperature squared.

    Returns:
        Scalar; 0 where student and teacher agree or no position is valid.

    Raises:
        ValueError: Where shapes differ.

    Example:
        >>> import torch
        >>> reverse_kl_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])).item()
        0.0
    """
    log_student, log_teacher = token_log_probs(student, teacher, temperature)
    return token_mean(token_kl(log_student, log_teacher), mask, temperature, scale_by_temperature)


class ReverseKLLoss(nn.Module):
    """Module form of :func:`reverse_kl_loss`."""

    def __init__(self, temperature: float = 1.0, scale_by_temperature: bool = True) -> None:
        super().__init__()
        self.temperature = temperature
        self.scale_by_temperature = scale_by_temperature

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`reverse_kl_loss`."""
        return reverse_kl_loss(
            student, teacher, mask, temperature=self.temperature, scale_by_temperature=self.scale_by_temperature
        )
