"""Ranks and what two orders have in common."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 4096  # rows sorted at once by the rank correlation, so that 1000 classes need no gigabytes


def ranks(values: Tensor) -> Tensor:
    """Ranks with ties at their mean, (N,) double."""
    _, place, count = torch.unique(values, return_inverse=True, return_counts=True)
    ranks: Tensor = count.cumsum(0).double()[place] - (count[place].double() - 1) / 2
    return ranks


def correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0


def rank_correlation(a: Tensor, b: Tensor) -> float:
    classes = a.shape[1]
    if classes < 2:
        return float("nan")
    total = 0.0
    for rows_a, rows_b in zip(torch.split(a, CHUNK), torch.split(b, CHUNK), strict=True):
        gap = rows_a.argsort(1).argsort(1) - rows_b.argsort(1).argsort(1)
        total += float((1 - 6 * gap.double().square().sum(1) / (classes * (classes**2 - 1))).sum())
    return total / len(a)
