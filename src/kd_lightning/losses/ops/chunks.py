"""A divergence over the vocabulary from hidden states, a few tokens at a time, with the gradient made on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kd_lightning.losses.ops.heads import Finish
from kd_lightning.losses.ops.tokens import log_mixture

# Logits of one chunk: tokens times vocabulary.
ELEMENTS = 2**25


@dataclass(frozen=True)
class Settings:
    """What is computed.

    Attributes:
        beta: 0 for the forward KL, 1 for the reverse KL, between them the generalised Jensen-Shannon divergence.
        temperature: Divides the logits of the divergence.
        scale: Multiplies the divergence.
        cross_entropy: Weight of the cross-entropy.
        chunk: Tokens at a time.
        student: What the student does to what its head gives.
        teacher: What the teacher does.
    """

    beta: float
    temperature: float
    scale: float
    cross_entropy: float
    chunk: int
    student: Finish
    teacher: Finish


def divergence_and_gradient(
    student: Tensor, teacher: Tensor, beta: float, temperature: float, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """The divergence of every row, and its gradient in the student's logits.

    Args:
        student: Logits (N, V).
        teacher: Logits (N, V).
        beta: As in :class:`Settings`.
        temperature: Divides both.
        with_gradient: Whether the second result is wanted.

    Returns:
        (N,), and (N, V) or None.
    """
    log_q = F.log_softmax(student if temperature == 1 else student / temperature, dim=-1)
    log_p = F.log_softmax(teacher if temperature == 1 else teacher / temperature, dim=-1)
    if beta == 0:
        p = log_p.exp()
        value = log_p.sub_(log_q).mul_(p).sum(-1)
        return value, log_q.exp_().sub_(p).div_(temperature) if with_gradient else None
    if beta == 1:
        gap = log_p.neg_().add_(log_q)
        q = log_q.exp_()
        value = (q * gap).sum(-1)
    else:
        mixture = log_mixture(log_p, log_q, beta)
        teacher_part = log_p.exp().mul_(log_p.sub_(mixture)).sum(-1)
        gap = torch.sub(log_q, mixture, out=mixture)
        q = log_q.exp_()
        # The gradients through the mixture cancel exactly, since it stays normalised.
        student_part = (q * gap).sum(-1)
        value = beta * teacher_part + (1 - beta) * student_part
    if not with_gradient:
        return value, None
    mean = (q * gap).sum(-1, keepdim=True)
    return value, gap.sub_(mean).mul_(q).mul_((1 if beta == 1 else 1 - beta) / temperature)


class ChunkedHead(torch.autograd.Function):
    """Weighted sums over tokens of a divergence and a cross-entropy; never all logits at once.

    The gradients of hidden states and head are made in the forward pass, chunk by chunk (as Liger-Kernel does), so
    that nothing of the size tokens times vocabulary lives on.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher: Tensor,
        teacher_weight: Tensor,
        teacher_bias: Tensor | None,
        target: Tensor,
        divergence_weight: Tensor,
        target_weight: Tensor,
        settings: Settings,
    ) -> Tensor:
        """Scalar of states (N, D) and heads (V, D); the weights (N,) already hold one over the count."""
        wanted = ctx.needs_input_grad[:3]
        total = torch.zeros((), dtype=_full(student.dtype), device=student.device)
        slopes = [
            # Sums over many chunks are kept in full precision; every state belongs to one chunk.
            torch.zeros_like(x, dtype=x.dtype if x is student else total.dtype) if need and x is not None else None
            for x, need in zip((student, weight, bias), wanted, strict=True)
        ]
        for start in range(0, len(student), settings.chunk):
            rows = slice(start, start + settings.chunk)
            logits = F.linear(student[rows], weight, bias)
            full = settings.student(logits.to(total.dtype))
            theirs = settings.teacher(F.linear(teacher[rows], teacher_weight, teacher_bias).to(total.dtype))
            value, slope = divergence_and_gradient(full, theirs, settings.beta, settings.temperature, any(wanted))
            total += (value * divergence_weight[rows]).sum() * settings.scale
            if slope is not None:
                slope *= (divergence_weight[rows] * settings.scale).unsqueeze(-1)
            if settings.cross_entropy:
                total += _cross_entropy(full, target[rows], target_weight[rows] * settings.cross_entropy, slope)
            if slope is not None:
                slope = settings.student.slope(full, slope)
                _accumulate(slopes, slope.to(student.dtype), student[rows], weight, rows)
        ctx.save_for_backward(*(slope for slope in slopes if slope is not None))
        ctx.present = [slope is not None for slope in slopes]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Only scales what the forward pass has made."""
        saved = iter(ctx.saved_tensors)
        slopes = [next(saved) * gradient if there else None for there in ctx.present]
        return (*slopes, *[None] * 7)


def _full(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _cross_entropy(logits: Tensor, target: Tensor, weight: Tensor, slope: Tensor | None) -> Tensor:
    """Weighted sum of the cross-entropy; adds its gradient to ``slope``."""
    log_q = F.log_softmax(logits, dim=-1)
    place = target.clamp(min=0).unsqueeze(-1)
    total = -(log_q.gather(-1, place).squeeze(-1) * weight).sum()
    if slope is not None:
        slope.addcmul_(log_q.exp_(), weight.unsqueeze(-1))
        slope.scatter_add_(-1, place, -weight.unsqueeze(-1))
    return total


def _accumulate(slopes: list[Tensor | None], slope: Tensor, states: Tensor, weight: Tensor, rows: slice) -> None:
    """From the gradient in the logits of some rows to those of states, head and bias."""
    by_state, by_weight, by_bias = slopes
    if by_state is not None:
        torch.mm(slope, weight, out=by_state[rows])
    if by_weight is not None:
        if by_weight.dtype == slope.dtype:
            by_weight.addmm_(slope.T, states)
        else:
            by_weight += slope.T @ states
    if by_bias is not None:
        by_bias += slope.sum(0)
