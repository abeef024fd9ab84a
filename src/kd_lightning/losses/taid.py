"""Temporally adaptive interpolated distillation (Shing et al., 2025)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.tokens import check_fraction, token_kl, token_log_probs, token_mean


@full_precision
def taid_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    t: float | Tensor = 0.4,
    subtract_entropy: bool = False,
) -> Tensor:
    r"""Forward divergence from a target between the student itself and the teacher.

    .. math:: -\operatorname{mean}_\text{tokens} \sum_v p_v \log p^s_v, \qquad
        p = \operatorname{softmax}((1-t)\,\operatorname{sg}(z_s) + t\,z_t)

    ``t`` moves from near the student to the teacher over the training (:class:`TAIDLoss`).

    References:
        [0] Shing, Misaki, Bao, Yokoi, Akiba. TAID: Temporally Adaptive Interpolated Distillation for Efficient
            Knowledge Transfer in Language Models. ICLR 2025.
        [1] SakanaAI/TAID, src/distil_losses/taid.py (compute_loss)

    Differs from [1]: 0 instead of nan where every position is masked.

    Args:
        student: Student logits, (..., V), already shifted for causal models.
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        t: Share of the teacher in the interpolated logits, between 0 and 1.
        subtract_entropy: True for the KL of the paper. The cross-entropy of [1] has the same gradient, and it is
            the value that the published schedule watches.

    Returns:
        Scalar; 0 where no position is valid.

    Raises:
        ValueError: Where shapes differ.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[1.0, 2.0]])
        >>> taid_loss(logits, logits, t=0.4, subtract_entropy=True).item()
        0.0
    """
    log_student, log_teacher = token_log_probs(student, teacher)
    # Log-probabilities and logits differ by a constant a row, which the softmax takes away.
    target = F.log_softmax((1 - t) * log_student.detach() + t * log_teacher, dim=-1)
    return token_mean(token_kl(target, log_student, subtract_entropy=subtract_entropy), mask)


class TAIDLoss(nn.Module):
    r"""Module form of :func:`taid_loss` with its schedule of ``t``.

    After each training step, with the relative fall of the loss :math:`r = (l_{n-1} - l_n) / l_{n-1}`:

    .. math:: m \leftarrow \beta m + (1-\beta) r, \qquad
        t \leftarrow \min(t_\text{end}, \max(t_\text{linear}, t + \alpha\,\sigma(m)\,(1-t)))

    where the linear schedule runs from ``t_start`` to ``t_end`` over the training. The first step only stores the
    loss. t, m and the last loss are buffers: a resumed run continues where it stopped.

    Differs from [1]: under several processes the mean loss is watched, so that t is the same on all of them.

    Args:
        t_start: First share of the teacher.
        t_end: Last share of the teacher.
        alpha: Step size of the adaptive part.
        beta: Momentum of the relative fall.
        adaptive: False for the linear schedule alone.
        subtract_entropy: See :func:`taid_loss`.
    """

    t: Tensor
    momentum: Tensor
    previous: Tensor

    def __init__(
        self,
        t_start: float = 0.4,
        t_end: float = 1.0,
        alpha: float = 5e-4,
        beta: float = 0.99,
        adaptive: bool = True,
        subtract_entropy: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {"t_start": t_start, "t_end": t_end, "beta": beta}.items():
            check_fraction(name, value)
        self.t_start, self.t_end, self.alpha, self.beta = t_start, t_end, alpha, beta
        self.adaptive = adaptive
        self.subtract_entropy = subtract_entropy
        self.register_buffer("t", torch.tensor(t_start))
        self.register_buffer("momentum", torch.tensor(0.0))
        self.register_buffer("previous", torch.tensor(float("inf")))  # infinite: no loss seen yet

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """See :func:`taid_loss`; ``progress`` is the part of the training that is over, between 0 and 1."""
        loss = taid_loss(student, teacher, mask, t=self.t, subtract_entropy=self.subtract_entropy)
        if self.training and torch.is_grad_enabled():
            self.update(loss, progress)
        return loss

    @torch.no_grad()
    def update(self, loss: Tensor, progress: float) -> None:
        """Move ``t`` after a step with this loss."""
        loss = loss.detach().to(self.previous, copy=True)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(loss)
            loss /= torch.distributed.get_world_size()
        linear = self.t_start + (self.t_end - self.t_start) * progress
        t = torch.full_like(self.t, linear)
        momentum = self.momentum
        if self.adaptive:
            fall = (self.previous - loss) / (self.previous + 1e-15)
            momentum = self.beta * momentum + (1 - self.beta) * fall
            t = torch.maximum(t, self.t + self.alpha * torch.sigmoid(momentum) * (1 - self.t))
        # `where` instead of `if`: no wait for the device.
        first = self.previous.isinf()
        self.t.copy_(torch.where(first, self.t, t.clamp(max=self.t_end)))
        self.momentum.copy_(torch.where(first, self.momentum, momentum))
        self.previous.copy_(loss)
