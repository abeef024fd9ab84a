"""Forward Kullback-Leibler divergence over tokens: word-level distillation (Kim and Rush, 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.tokens import token_kl, token_log_probs, token_mean


@full_precision
def forward_kl_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
    subtract_entropy: bool = True,
) -> Tensor:
    r"""Divergence of the student's from the teacher's next-token distribution; covers every mode of the teacher.

    .. math:: T^2 \cdot \operatorname{mean}_\text{tokens} \sum_v p_t \log \frac{p_t}{p_s}

    References:
        [0] Kim, Rush. Sequence-Level Knowledge Distillation. EMNLP 2016 (its word-level form).
        [1] jongwooko/distillm, distillm/losses.py (forward_kl)

    Differs from [1]: the teacher's entropy is subtracted (same gradient; ``subtract_entropy=False`` gives the value
    of [1]); a temperature; 0 instead of nan where every position is masked.

    Args:
        student: Student logits, (..., V), already shifted for causal models; -inf marks entries outside the
            vocabulary.
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        temperature: Divides the logits of both.
        scale_by_temperature: Multiply by the temperature squared.
        subtract_entropy: False for the cross-entropy, which is larger by the teacher's entropy.

    Returns:
        Scalar; 0 where no position is valid.

    Raises:
        ValueError: Where shapes differ.

    Example:
        >>> import torch
        >>> forward_kl_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])).item()
        0.0
    """
    log_student, log_teacher = token_log_probs(student, teacher, temperature)
    divergence = token_kl(log_teacher, log_student, subtract_entropy=subtract_entropy)
    return token_mean(divergence, mask, temperature, scale_by_temperature)


class ForwardKLLoss(nn.Module):
    """Module form of :func:`forward_kl_loss`."""

    def __init__(
        self, temperature: float = 1.0, scale_by_temperature: bool = True, subtract_entropy: bool = True
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.scale_by_temperature = scale_by_temperature
        self.subtract_entropy = subtract_entropy

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`forward_kl_loss`."""
        return forward_kl_loss(
            student,
            teacher,
            mask,
            temperature=self.temperature,
            scale_by_temperature=self.scale_by_temperature,
            subtract_entropy=self.subtract_entropy,
        )
