"""Weighted sum of forward and reverse Kullback-Leibler divergence over tokens."""

from __future__ import annotations

from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.tokens import check_fraction, token_kl, token_log_probs, token_mean


@full_precision
def symmetric_kl_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    reverse_weight: float = 0.5,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
    subtract_entropy: bool = True,
) -> Tensor:
    r"""Between covering the teacher's modes and seeking them.

    .. math:: T^2 \cdot \operatorname{mean}_\text{tokens}\;
        (1-\lambda)\,\mathrm{KL}(p_t \| p_s) + \lambda\,\mathrm{KL}(p_s \| p_t)

    References:
        [0] Ko, Kim, Chen, Yun. DistiLLM: Towards Streamlined Distillation for Large Language Models. ICML 2024.
        [1] jongwooko/distillm, distillm/losses.py (symmetric_kl)

    Differs from [1]: the weight is 0.5 by default, so that it is symmetric ([1]: 0.9); the teacher's entropy is
    subtracted in the forward part; a temperature; 0 instead of nan where every position is masked.

    Args:
        student: Student logits, (..., V), already shifted for causal models.
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        reverse_weight: Weight of the reverse part, between 0 and 1.
        temperature: Divides the logits of both.
        scale_by_temperature: Multiply by the temperature squared.
        subtract_entropy: False leaves the teacher's entropy in the forward part, as [1] does.

    Returns:
        Scalar; 0 where no position is valid.

    Raises:
        ValueError: Where shapes differ or the weight is outside [0, 1].

    Example:
        >>> import torch
        >>> symmetric_kl_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])).item()
        0.0
    """
    check_fraction("reverse_weight", reverse_weight)
    log_student, log_teacher = token_log_probs(student, teacher, temperature)
    forward = token_kl(log_teacher, log_student, subtract_entropy=subtract_entropy)
    divergence = (1 - reverse_weight) * forward + reverse_weight * token_kl(log_student, log_teacher)
    return token_mean(divergence, mask, temperature, scale_by_temperature)


class SymmetricKLLoss(nn.Module):
    """Module form of :func:`symmetric_kl_loss`."""

    def __init__(
        self,
        reverse_weight: float = 0.5,
        temperature: float = 1.0,
        scale_by_temperature: bool = True,
        subtract_entropy: bool = True,
    ) -> None:
        super().__init__()
        self.reverse_weight = reverse_weight
        self.temperature = temperature
        self.scale_by_temperature = scale_by_temperature
        self.subtract_entropy = subtract_entropy

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`symmetric_kl_loss`."""
        return symmetric_kl_loss(
            student,
            teacher,
            mask,
            reverse_weight=self.reverse_weight,
            temperature=self.temperature,
            scale_by_temperature=self.scale_by_temperature,
            subtract_entropy=self.subtract_entropy,
        )
