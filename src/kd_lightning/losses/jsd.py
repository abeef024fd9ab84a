"""Generalised Jensen-Shannon divergence of on-policy distillation (Agarwal et al., 2024)."""

from __future__ import annotations

from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.tokens import check_fraction, log_mixture, token_kl, token_log_probs, token_mean


@full_precision
def jsd_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
) -> Tensor:
    r"""Divergence of both distributions from their mixture; ``beta`` weighs the teacher.

    .. math:: \operatorname{mean}_\text{tokens}\; \beta\,\mathrm{KL}(p_t \| m) + (1-\beta)\,\mathrm{KL}(p_s \| m),
        \qquad m = \beta p_t + (1-\beta) p_s

    At the end points, where this expression is 0, GKD puts the two divergences that it tends to after division by
    beta or 1 - beta: ``beta=0`` is the forward KL(p_t || p_s), ``beta=1`` the reverse KL(p_s || p_t). ``beta=0.5``
    is the Jensen-Shannon divergence. DistiLLM's weight of the student is ``1 - beta``.

    References:
        [0] Agarwal et al. On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes. ICLR 2024.
        [1] huggingface/trl, trl/experimental/gkd/gkd_trainer.py (generalized_jsd_loss)
        [2] jongwooko/distillm, distillm/losses.py (js_distance)

    Differs from [1]: T squared is inside (``scale_by_temperature=False`` for the published form); the mean is over
    valid tokens also where no mask is given. Differs from [2]: log space, finite on saturated logits.

    Args:
        student: Student logits, (..., V), already shifted for causal models.
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        beta: Weight of the teacher, between 0 and 1.
        temperature: Divides the logits of both.
        scale_by_temperature: Multiply by the temperature squared.

    Returns:
        Scalar, 0 where student and teacher agree or no position is valid; at most log 2 at beta 0.5 and T 1.

    Raises:
        ValueError: Where shapes differ or beta is outside [0, 1].

    Example:
        >>> import torch
        >>> round(jsd_loss(torch.tensor([[0.0, 90.0]]), torch.tensor([[90.0, 0.0]])).item(), 4)  # log 2
        0.6931
    """
    check_fraction("beta", beta)
    log_student, log_teacher = token_log_probs(student, teacher, temperature)
    if beta == 0:
        divergence = token_kl(log_teacher, log_student)
    elif beta == 1:
        divergence = token_kl(log_student, log_teacher)
    else:
        # The gradients through the mixture cancel exactly (it stays normalised), so its graph need not be kept.
        mixture = log_mixture(log_teacher, log_student.detach(), beta)
        divergence = beta * token_kl(log_teacher, mixture) + (1 - beta) * token_kl(log_student, mixture)
    return token_mean(divergence, mask, temperature, scale_by_temperature)


class JSDLoss(nn.Module):
    """Module form of :func:`jsd_loss`."""

    def __init__(self, beta: float = 0.5, temperature: float = 1.0, scale_by_temperature: bool = True) -> None:
        super().__init__()
        self.beta = beta
        self.temperature = temperature
        self.scale_by_temperature = scale_by_temperature

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`jsd_loss`."""
        return jsd_loss(
            student,
            teacher,
            mask,
            beta=self.beta,
            temperature=self.temperature,
            scale_by_temperature=self.scale_by_temperature,
        )
