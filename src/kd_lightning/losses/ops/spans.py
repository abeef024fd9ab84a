"""Where the tokens of two tokenizers meet in one text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spans:
    """One side of an alignment.

    Attributes:
        chunk: Number of the chunk that a position's token belongs to, (B, T); the same number on both sides is the
            same piece of text. What belongs to none has the number T.
        start: Positions that predict from a beginning that both sides have seen, (B, T) bool.
    """

    chunk: Tensor
    start: Tensor


def align(ends: Tensor, others: Tensor, valid: Tensor, others_valid: Tensor) -> Spans:
    """The student's side (or the teacher's, with the arguments swapped).

    Args:
        ends: Where in the text, in characters, the token ends that a position predicts, (B, T).
        others: The same of the other tokenizer, (B, S).
        valid: Positions whose token counts, (B, T) bool.
        others_valid: The same of the other, (B, S) bool.
    """
    length = ends.shape[1]
    met = (ends.unsqueeze(2) == others.unsqueeze(1)) & others_valid.unsqueeze(1)
    shared = met.any(2) & valid
    # Several tokens of one character end at the same place: the last one of them is the boundary.
    order = torch.arange(length, device=ends.device)
    later = (ends.unsqueeze(2) == ends.unsqueeze(1)) & valid.unsqueeze(1) & (order[:, None] < order)
    boundary = shared & ~later.any(2)
    before = boundary.cumsum(1) - boundary.long()
    inside = valid & (before < boundary.sum(1, keepdim=True))
    chunk = torch.where(inside, before, length)
    # A position starts a chunk where no earlier valid one belongs to the same.
    same = (before.unsqueeze(2) == before.unsqueeze(1)) & valid.unsqueeze(1) & (order < order[:, None])
    return Spans(chunk, valid & ~same.any(2))
