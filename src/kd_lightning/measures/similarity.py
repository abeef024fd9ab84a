"""How alike two networks represent the same samples: linear CKA, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 8  # larger maps are averaged to 8x8 first: enough to compare them, and 512 of them fit into memory


def features(value: Tensor) -> Tensor:
    """What a layer says of a sample as one row, (B, D): maps (B, C, H, W) at most 8x8, tokens (B, T, D) averaged."""
    value = value.detach().float()
    if value.ndim == 4 and max(value.shape[-2:]) > SIDE:
        value = F.adaptive_avg_pool2d(value, (min(SIDE, value.shape[-2]), min(SIDE, value.shape[-1])))
    if value.ndim == 3:
        value = value.mean(dim=1)
    return value.flatten(1)


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Linear centred kernel alignment of two representations of the same samples.

    Args:
        a: (N, D).
        b: (N, E).

    Returns:
        In [0, 1], 1 where they are equal up to rotation and scale; nan where one does not vary at all.

    References:
        Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019.
    """
    return _alignment(centred_gram(a), centred_gram(b))


def layers_cka(teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> Similarity:
    """Linear CKA of every layer of the teacher with every layer of the student.

    Args:
        teacher: name of the layer -> its `centred_gram`, (N, N).
        student: the same, of the same samples.
    """
    if not teacher or not student:
        return Similarity([], [], [])
    return Similarity(
        list(teacher), list(student), [[_alignment(a, b) for b in student.values()] for a in teacher.values()]
    )


def centred_gram(rows: Tensor) -> Tensor:
    """Inner products of the samples, (N, N), of features (N, D) less their mean."""
    rows = rows.float()
    rows = rows - rows.mean(dim=0)
    return rows @ rows.T


def _alignment(a: Tensor, b: Tensor) -> float:
    scale = float(torch.linalg.matrix_norm(a)) * float(torch.linalg.matrix_norm(b))
    return float((a * b).double().sum()) / scale if scale > 0 else float("nan")


@dataclass(frozen=True)
class Similarity:
    """Linear CKA, in [0, 1], of every layer of the teacher (rows) with every layer of the student (columns)."""

    teacher: list[str]
    student: list[str]
    values: list[list[float]]
