"""Knowledge review: every level of the teacher is learned from this and all deeper levels (Chen et al., 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.layers import check_built, to_like
from kd_lightning.losses.ops.maps import Maps, check_same_shape, pair_maps


def _level(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss of one level."""
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size >= student.shape[2]:
            continue
        weight /= 2
        total += weight
        ours, theirs = F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
        loss = loss + weight * F.mse_loss(ours, theirs)
    return loss / total


@full_precision
def reviewkd_loss(student: Maps, teacher: Maps) -> Tensor:
    r"""Hierarchical context loss (HCL): squared distance at full size and after pooling to 4, 2 and 1 pixels.

    .. math:: \sum_{levels} \frac{\operatorname{mse}(f^s, f^t) + \sum_{k=1}^{K} 2^{-k}
        \operatorname{mse}(P_{l_k} f^s, P_{l_k} f^t)}{1 + \sum_{k=1}^{K} 2^{-k}}, \qquad l \in \{4, 2, 1\},\ l < H

    References:
        [0] Chen, Liu, Zhao, Jia. Distilling Knowledge via Knowledge Review. CVPR 2021.
        [1] dvlab-research/ReviewKD, CIFAR-100/model/reviewkd.py (hcl)

    Differs from [1]: the teacher is detached inside; unequal shapes are refused instead of broadcast.

    Args:
        student: Student's fused maps of every level, (B, C, H, W), or one map.
        teacher: Teacher's maps, same shapes.

    Returns:
        Scalar; 0 where the maps agree.

    Raises:
        ValueError: Where the numbers of levels or the shapes differ.

    Example:
        >>> import torch
        >>> maps = [torch.ones(2, 3, 8, 8), torch.ones(2, 4)]
        >>> reviewkd_loss(maps, [2 * x for x in maps]).item()
        2.0
    """
    losses = []
    for i, (s, t) in enumerate(pair_maps(student, teacher)):
        check_same_shape(s, t, i)
        losses.append(_level(s, t))
    return torch.stack(losses).sum()


class ABF(nn.Module):
    """Attention-based fusion of a level with what came from the deeper levels.

    Args:
        student: Channels of the student's level.
        hidden: Channels in which levels are fused and handed on.
        teacher: Channels of the teacher's level.
        fuse: There is a deeper level to fuse with.
    """

    def __init__(self, student: int, hidden: int, teacher: int, fuse: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(student, hidden, 1, bias=False), nn.BatchNorm2d(hidden))
        self.attention = nn.Sequential(nn.Conv2d(2 * hidden, 2, 1), nn.Sigmoid()) if fuse else None
        self.project = nn.Sequential(nn.Conv2d(hidden, teacher, 3, padding=1, bias=False), nn.BatchNorm2d(teacher))
        for block in (self.reduce, self.project):
            nn.init.kaiming_uniform_(block[0].weight, a=1)  # type: ignore[arg-type]

    def forward(self, x: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Fuse one level.

        Args:
            x: Student's level, (B, C_s, H, W).
            deeper: Residual of the deeper level, (B, hidden, H', W'), or None at the deepest.
            size: Height and width of the teacher's level.

        Returns:
            The level for the teacher's, (B, C_t, *size), and the residual for the next, (B, hidden, *size).
        """
        x = self.reduce(x)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, x.shape[2:], mode="nearest")
            ours, theirs = self.attention(torch.cat([x, deeper], dim=1)).split(1, dim=1)
            x = x * ours + deeper * theirs
        if x.shape[2:] != size:
            x = F.interpolate(x, size, mode="nearest")
        return self.project(x), x


class ReviewKDLoss(nn.Module):
    """:func:`reviewkd_loss` behind the paper's review path: fusion from the deepest to the first level.

    Published: the student's maps after each stage and its pooled embedding as the last level, against the teacher's
    maps before the last activation of each stage and its embedding.

    Args:
        max_hidden: Upper limit of the channels in which levels are fused; otherwise those of the student's deepest.
    """

    def __init__(self, max_hidden: int = 512) -> None:
        super().__init__()
        self.max_hidden = max_hidden
        self.fusions = nn.ModuleList()

    def build(self, student: Maps, teacher: Maps) -> None:
        """Create the fusion modules from example maps, ordered from the first to the deepest level."""
        pairs = pair_maps(student, teacher)
        hidden = min(self.max_hidden, pairs[-1][0].shape[1])
        self.fusions = nn.ModuleList(
            to_like(ABF(s.shape[1], hidden, t.shape[1], fuse=i < len(pairs) - 1), s) for i, (s, t) in enumerate(pairs)
        )

    def forward(self, student: Maps, teacher: Maps) -> Tensor:
        """See :func:`reviewkd_loss`; the student's levels from the first to the deepest, not yet fused."""
        pairs = pair_maps(student, teacher)
        check_built(self.fusions, len(pairs))
        fused: list[Tensor] = []
        residual: Tensor | None = None
        for fuse, (s, t) in zip(reversed(self.fusions), reversed(pairs), strict=True):
            level, residual = fuse(s, residual, t.shape[2:])
            fused.insert(0, level)
        return reviewkd_loss(fused, [t for _, t in pairs])
