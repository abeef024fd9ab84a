"""Total variation distance over tokens (Wen et al., 2023)."""

from __future__ import annotations

from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.tokens import token_log_probs, token_mean


@full_precision
def tvd_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
) -> Tensor:
    r"""Half the absolute difference of the two distributions: bounded and symmetric.

    .. math:: T^2 \cdot \operatorname{mean}_\text{tokens} \tfrac12 \sum_v |p_t - p_s|

    References:
        [0] Wen, Li, Du, Mou. f-Divergence Minimization for Sequence-Level Knowledge Distillation. ACL 2023.
        [1] jongwooko/distillm, distillm/losses.py (tv_distance)

    Differs from [1]: a temperature; 0 instead of nan where every position is masked.

    Args:
        student: Student logits, (..., V), already shifted for causal models.
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        temperature: Divides the logits of both.
        scale_by_temperature: Multiply by the temperature squared.

    Returns:
        Scalar between 0 and 1 (times T squared); 0 where no position is valid.

    Raises:
        ValueError: Where shapes differ.

    Example:
        >>> import torch
        >>> tvd_loss(torch.tensor([[0.0, 90.0]]), torch.tensor([[90.0, 0.0]])).item()
        1.0
    """
    log_student, log_teacher = token_log_probs(student, teacher, temperature)
    distance = (log_student.exp() - log_teacher.exp()).abs().sum(-1) / 2
    return token_mean(distance, mask, temperature, scale_by_temperature)


class TVDLoss(nn.Module):
    """Module form of :func:`tvd_loss`."""

    def __init__(self, temperature: float = 1.0, scale_by_temperature: bool = True) -> None:
        super().__init__()
        self.temperature = temperature
        self.scale_by_temperature = scale_by_temperature

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`tvd_loss`."""
        return tvd_loss(
            student, teacher, mask, temperature=self.temperature, scale_by_temperature=self.scale_by_temperature
        )
