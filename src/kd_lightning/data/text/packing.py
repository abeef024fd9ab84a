"""Packing: several short samples in one row of a language model."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import torch
from torch import Tensor

from kd_lightning.data.text.rows import Rows, make_rows


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which samples share a row: best fit, the longest first; within a row in their order.

    Args:
        lengths: Tokens of each sample, at most ``capacity``.
        capacity: Tokens of a row.

    Returns:
        Samples of each row; rows by their first sample.
    """
    room: dict[int, list[list[int]]] = {}  # space left -> rows
    spaces: list[int] = []  # the keys of it, sorted
    rows: list[list[int]] = []
    for sample in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        found = bisect_left(spaces, lengths[sample])
        if found == len(spaces):
            row: list[int] = []
            rows.append(row)
            space = capacity
        else:
            space = spaces[found]
            row = room[space].pop()
            if not room[space]:
                del room[space], spaces[found]
        row.append(sample)
        left = space - lengths[sample]
        if left not in room:
            room[left] = []
            insort(spaces, left)
        room[left].append(row)
    return sorted(sorted(row) for row in rows)


def pack_rows(rows: Rows, capacity: int) -> Rows:
    """Rows of several samples each, with the columns ``learn`` (0 or 1) and ``segments`` (from 1)."""
    tokens, learn, segments, samples = [], [], [], []
    ends = rows.offsets.tolist()
    prompts = [0] * len(rows) if rows.prompts is None else rows.prompts.tolist()
    flat, of = rows.tokens.tolist(), rows.samples.tolist()
    for members in pack(rows.lengths.tolist(), capacity):
        pieces = [flat[ends[i] : ends[i + 1]] for i in members]
        tokens.append([token for piece in pieces for token in piece])
        # The first token of a sample is no target: what is before it belongs to another sample.
        learn.append(
            [int(t >= max(1, prompts[i])) for i, piece in zip(members, pieces, strict=True) for t in range(len(piece))]
        )
        segments.append([number for number, piece in enumerate(pieces, 1) for _ in piece])
        samples.append(of[members[0]] if len(members) == 1 else -1)
    return make_rows(tokens, samples, cut=rows.cut, learn=learn, segments=segments)


def restarting_positions(segments: Tensor) -> Tensor:
    """Positions that count from 0 in every segment, (B, T) int64; ``segments`` (B, T) ascends, padding (0) at the end.

    >>> restarting_positions(torch.tensor([[1, 1, 1, 2, 2, 0]]))
    tensor([[0, 1, 2, 0, 1, 0]])
    """
    place = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    new = torch.ones_like(segments, dtype=torch.bool)
    new[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start = torch.where(new, place, 0).cummax(1).values
    return torch.where(segments > 0, place - start, 0)
