"""What the logit losses share: a checked pair of logits, ignored targets, distributions without the target class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.losses.standardize import standardize_logits

IGNORE = -100


def logit_pair(student: Tensor, teacher: Tensor, standardize: bool = False) -> tuple[Tensor, Tensor]:
    """Student and detached teacher logits of one shape, z-scored where asked.

    Raises:
        ValueError: Where the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"Student logits {tuple(student.shape)} and teacher logits {tuple(teacher.shape)} differ in shape: both"
            " must come from the same batch and predict the same classes."
        )
    teacher = teacher.detach()
    return (standardize_logits(student), standardize_logits(teacher)) if standardize else (student, teacher)


def split_target(target: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A target that is safe to gather with (0 where ignored), and the positions that count."""
    valid = target != IGNORE
    return target.where(valid, target.new_zeros(())), valid if mask is None else valid & mask.to(torch.bool)


def pick(values: Tensor, target: Tensor) -> Tensor:
    """``values[..., target]``: (..., C) and (...) -> (...)."""
    return values.gather(-1, target.unsqueeze(-1)).squeeze(-1)


def without_target(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and log-probabilities over the other classes; both 0 at the target.

    The target is excluded exactly (logit -inf) rather than pushed down by a constant, and its log-probability is
    set to 0 so that no product is 0 * inf.
    """
    is_target = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, target.unsqueeze(-1), True)
    log_probability = F.log_softmax(logits.masked_fill(is_target, -torch.inf), dim=-1)
    return log_probability.exp(), log_probability.masked_fill(is_target, 0.0)
