"""Next-token targets. The shift of language modelling happens here and nowhere else."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORE = -100


def shift_targets(input_ids: Tensor, valid: Tensor) -> Tensor:
    """What every position has to predict: the token after it.

    Logits keep all positions, so that they line up with hidden states, taps and masks; it is the targets that move.

    Args:
        input_ids: Tokens, (B, T) int64.
        valid: Which of these tokens are to be learnt: those of the response, neither prompt nor padding; (B, T) bool.

    Returns:
        (B, T) int64: ``input_ids[:, t + 1]`` where that token is valid, and -100 elsewhere; so always at the last
        position.
    """
    target = torch.full_like(input_ids, IGNORE)
    target[:, :-1] = torch.where(valid[:, 1:].bool(), input_ids[:, 1:], IGNORE)
    return target
