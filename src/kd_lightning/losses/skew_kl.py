"""Skewed Kullback-Leibler divergences of DistiLLM (Ko et al., 2024)."""

from __future__ import annotations

from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.tokens import check_fraction, log_mixture, token_kl, token_log_probs, token_mean


@full_precision
def skew_forward_kl_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
    subtract_entropy: bool = True,
) -> Tensor:
    r"""Forward KL to a mixture with the teacher: its gradient does not explode where the student gives no mass.

    .. math:: T^2 \cdot \operatorname{mean}_\text{tokens}\; \mathrm{KL}(p_t \| \lambda p_t + (1-\lambda) p_s)

    References:
        [0] Ko, Kim, Chen, Yun. DistiLLM: Towards Streamlined Distillation for Large Language Models. ICML 2024.
        [1] jongwooko/distillm, distillm/losses.py (skewed_forward_kl)

    Differs from [1]: log space, finite on saturated logits; the teacher's entropy is subtracted (same gradient); a
    temperature; 0 instead of nan where every position is masked.

    Args:
        student: Student logits, (..., V), already shifted for causal models.
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        skew: Share of the teacher in the mixture, between 0 (forward KL) and 1.
        temperature: Divides the logits of both.
        scale_by_temperature: Multiply by the temperature squared.
        subtract_entropy: False for the value of [1], larger by the teacher's entropy.

    Returns:
        Scalar; 0 where no position is valid.

    Raises:
        ValueError: Where shapes differ or the skew is outside [0, 1].

    Example:
        >>> import torch
        >>> round(skew_forward_kl_loss(torch.tensor([[0.0, 90.0]]), torch.tensor([[90.0, 0.0]])).item(), 4)  # -log 0.1
        2.3026
    """
    check_fraction("skew", skew)
    log_student, log_teacher = token_log_probs(student, teacher, temperature)
    mixture = log_mixture(log_teacher, log_student, skew)
    divergence = token_kl(log_teacher, mixture, subtract_entropy=subtract_entropy)
    return token_mean(divergence, mask, temperature, scale_by_temperature)


@full_precision
def skew_reverse_kl_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
) -> Tensor:
    r"""Reverse KL to a mixture with the student: finite also where the teacher gives no mass.

    .. math:: T^2 \cdot \operatorname{mean}_\text{tokens}\; \mathrm{KL}(p_s \| \lambda p_s + (1-\lambda) p_t)

    The gradient flows through both places of the student.

    References:
        [0] Ko, Kim, Chen, Yun. DistiLLM: Towards Streamlined Distillation for Large Language Models. ICML 2024.
        [1] jongwooko/distillm, distillm/losses.py (skewed_reverse_kl)

    Differs from [1]: log space, finite on saturated logits; a temperature; 0 instead of nan where every position is
    masked.

    Args:
        student: Student logits, (..., V), already shifted for causal models.
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        skew: Share of the student in the mixture, between 0 (reverse KL) and 1.
        temperature: Divides the logits of both.
        scale_by_temperature: Multiply by the temperature squared.

    Returns:
        Scalar; 0 where student and teacher agree or no position is valid.

    Raises:
        ValueError: Where shapes differ or the skew is outside [0, 1].

    Example:
        >>> import torch
        >>> round(skew_reverse_kl_loss(torch.tensor([[0.0, 90.0]]), torch.tensor([[90.0, 0.0]])).item(), 4)
        2.3026
    """
    check_fraction("skew", skew)
    log_student, log_teacher = token_log_probs(student, teacher, temperature)
    divergence = token_kl(log_student, log_mixture(log_student, log_teacher, skew))
    return token_mean(divergence, mask, temperature, scale_by_temperature)


class SkewForwardKLLoss(nn.Module):
    """Module form of :func:`skew_forward_kl_loss`."""

    def __init__(
        self,
        skew: float = 0.1,
        temperature: float = 1.0,
        scale_by_temperature: bool = True,
        subtract_entropy: bool = True,
    ) -> None:
        super().__init__()
        self.skew = skew
        self.temperature = temperature
        self.scale_by_temperature = scale_by_temperature
        self.subtract_entropy = subtract_entropy

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`skew_forward_kl_loss`."""
        return skew_forward_kl_loss(
            student,
            teacher,
            mask,
            skew=self.skew,
            temperature=self.temperature,
            scale_by_temperature=self.scale_by_temperature,
            subtract_entropy=self.subtract_entropy,
        )


class SkewReverseKLLoss(nn.Module):
    """Module form of :func:`skew_reverse_kl_loss`."""

    def __init__(self, skew: float = 0.1, temperature: float = 1.0, scale_by_temperature: bool = True) -> None:
        super().__init__()
        self.skew = skew
        self.temperature = temperature
        self.scale_by_temperature = scale_by_temperature

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`skew_reverse_kl_loss`."""
        return skew_reverse_kl_loss(
            student,
            teacher,
            mask,
            skew=self.skew,
            temperature=self.temperature,
            scale_by_temperature=self.scale_by_temperature,
        )
