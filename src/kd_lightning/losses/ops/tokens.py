"""What every divergence between token distributions shares: log-probabilities, mixtures, the masked mean."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.losses.ops.common import masked_mean

# Stands for minus infinity: its exp is 0 in every precision, and 0 * FLOOR is 0 where 0 * -inf is nan.
FLOOR = -1e30


def token_log_probs(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities of both sides over the vocabulary that they share; the teacher's without gradient.

    An entry at -inf on either side (padding of the vocabulary) is left out of both distributions, which are
    normalised over the rest: every divergence stays finite, non-negative and zero at equality.

    Args:
        student: Student logits, (..., V).
        teacher: Teacher logits, same shape.
        temperature: Divides the logits.

    Raises:
        ValueError: Where the shapes differ or the temperature is not positive.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student logits {tuple(student.shape)} and teacher logits {tuple(teacher.shape)} must have the same"
            " shape. Pad the smaller vocabulary with -inf where the tokenizer is shared; use the method uld where it"
            " is not."
        )
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}.")
    outside = student.detach().isneginf() | teacher.detach().isneginf()

    def log_probs(logits: Tensor) -> Tensor:
        scaled = logits if temperature == 1 else logits / temperature
        return F.log_softmax(scaled.masked_fill(outside, FLOOR), dim=-1)

    return log_probs(student), log_probs(teacher.detach())


def token_kl(log_p: Tensor, log_q: Tensor, *, subtract_entropy: bool = True) -> Tensor:
    """KL(p || q) at every position, (...); the cross-entropy of q under p without ``subtract_entropy``."""
    return (log_p.exp() * (log_p - log_q if subtract_entropy else -log_q)).sum(-1)


def log_mixture(log_p: Tensor, log_q: Tensor, weight: float) -> Tensor:
    """log(weight * p + (1 - weight) * q), finite wherever one of the two is."""
    if weight in (0.0, 1.0):
        return log_p if weight else log_q
    return torch.logaddexp(log_p + math.log(weight), log_q + math.log1p(-weight))


def token_mean(
    divergence: Tensor, mask: Tensor | None, temperature: float = 1.0, scale_by_temperature: bool = True
) -> Tensor:
    """Mean over the valid positions, times T squared where asked; 0 where no position is valid.

    Args:
        divergence: One value a position, (...).
        mask: Valid positions, same shape; None for all of them.
        temperature: The T of the logits.
        scale_by_temperature: Multiply by T squared, so that the gradient keeps its size when T changes.

    Raises:
        ValueError: Where the mask has another shape.
    """
    if mask is not None and mask.shape != divergence.shape:
        raise ValueError(
            f"mask {tuple(mask.shape)} must have one value for each position of the logits, {tuple(divergence.shape)}."
        )
    mean = masked_mean(divergence, mask)
    return mean * temperature**2 if scale_by_temperature else mean


def check_fraction(name: str, value: float) -> None:
    """Refuse a mixture weight outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, not {value}.")
