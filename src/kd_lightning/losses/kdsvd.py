"""Distillation of singular vectors (Lee et al., 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.layers import conv1x1
from kd_lightning.losses.ops.maps import Maps, as_maps

EXTRA = 3  # student vectors beyond k, among which the partners of the teacher's k are sought


class _RightVectors(torch.autograd.Function):
    """Right singular vectors (B, N, R) of (B, M, N), with a gradient that stays finite.

    The exact gradient divides by the differences of squared singular values, which are 0 for repeated values, as every
    rank-deficient map has them. Here 1 / d becomes d / (d^2 + e^2), e being the square root of the machine epsilon
    times the largest squared value: the same where the values are apart, 0 where they coincide.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        v = vh.mT.contiguous()
        ctx.save_for_backward(u, s, v)
        ctx.mark_non_differentiable(s)
        return v, s

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
        u, s, v = ctx.saved_tensors
        value = s.square()
        width = torch.finfo(s.dtype).eps ** 0.5 * value[:, :1] + torch.finfo(s.dtype).tiny

        def inverse(difference: Tensor, width: Tensor) -> Tensor:
            return difference / (difference.square() + width.square()).clamp(min=torch.finfo(s.dtype).tiny)

        overlap = v.mT @ grad  # [j, i]: how far vector i is asked to turn towards vector j
        inside = overlap * inverse(value.unsqueeze(1) - value.unsqueeze(2), width.unsqueeze(2))
        outside = (grad - v @ overlap) * inverse(value, width).unsqueeze(1)  # out of the span of the R vectors
        result: Tensor = (u * s.unsqueeze(1)) @ ((inside + inside.mT) @ v.mT + outside.mT)
        return result


def _vectors(feature: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> the first right singular vectors (B, C, count) of the (HW, C) matrices, and all values (B, R)."""
    v, s = _RightVectors.apply(feature.flatten(2).mT)
    return v[:, :, :count], s


def _signed(v: Tensor, like: Tensor | None) -> Tensor:
    """Vectors (B, C, K) with settled signs: those of ``like``, else the largest component is positive."""
    if like is None:
        reference = v.gather(1, v.abs().argmax(dim=1, keepdim=True))
    else:
        reference = (v * like.to(v)).sum(dim=1, keepdim=True)
    return v * torch.where(reference < 0, -1.0, 1.0).to(v)


def _partners(student: Tensor, teacher: Tensor) -> Tensor:
    """For each teacher vector (B, C, K) the student vector most parallel to it, with its sign."""
    cosine = student.detach().mT @ teacher
    best = cosine.abs().argmax(dim=1, keepdim=True)
    chosen = student.gather(2, best.expand(-1, student.shape[1], -1))
    return chosen * cosine.gather(1, best).sign()


def _relation(first: Tensor, second: Tensor) -> Tensor:
    """Radial basis values (B, C_1, C_2, K) of the components of two stages."""
    return torch.exp(-(second.unsqueeze(1) - first.unsqueeze(2)).square() / 8)


@full_precision
def kdsvd_loss(
    student: Maps,
    teacher: Maps,
    *,
    k: int = 1,
    signs: Sequence[Tensor] | None = None,
) -> Tensor:
    r"""Difference of the relations between the singular vectors of consecutive stages.

    Of every map, as a (HW, C) matrix, the first ``k`` right singular vectors, times the teacher's singular values
    (of unit length over k), are v. A student vector is the one, among its first k + 3, most parallel to the teacher's.

    .. math:: \frac{1}{B} \sum_{i>1} \sum_{b,c,c',k} \left( e^{-(v^s_{i,c} - v^s_{i-1,c'})^2 / 8}
        - e^{-(v^t_{i,c} - v^t_{i-1,c'})^2 / 8} \right)^2

    References:
        [0] Lee, Kim, Song. Self-supervised Knowledge Distillation Using Singular Value Decomposition. ECCV 2018.
        [1] HobbitLong/RepDistiller, distiller_zoo/KDSVD.py, after the authors' sseung0703/SSKD_SVD

    Differs from [1]: singular vectors have no sign of their own, and the loss depends on the teacher's, which [1] takes
    as the library happens to give them; here the largest component is positive. Maps need not be square. The teacher is
    detached inside. The gradient is finite for repeated singular values, where [1] has nan.

    Args:
        student: Student maps, one (B, C_i, H, W) a stage, at least two stages; tokens (B, T, C_i) count as maps.
        teacher: Teacher maps, as many, with the same C_i; H and W may differ.
        k: Singular vectors of every map; at most as many as the smallest teacher map has, min(HW, C).
        signs: Vectors (B, C_i, k) whose signs the teacher's take, one a stage; to reproduce values of another library.

    Returns:
        Scalar; 0 where student and teacher agree.

    Raises:
        ValueError: Where there are fewer than two stages, or stages or channels do not match.

    Example:
        >>> import torch
        >>> maps = [torch.rand(2, 4, 3, 3), torch.rand(2, 6, 2, 2)]
        >>> round(kdsvd_loss(maps, maps).item(), 6)
        0.0
    """
    ours, theirs = as_maps(student, "student"), as_maps(teacher, "teacher")
    if len(ours) != len(theirs) or len(ours) < 2:
        raise ValueError(
            "KDSVD relates consecutive stages: give the same number of maps, at least two, for student and teacher,"
            f" not {len(ours)} and {len(theirs)}."
        )
    k = min(k, *(min(f_t.shape[1], f_t[0, 0].numel()) for f_t in theirs))
    loss = ours[0].new_zeros(())
    before: tuple[Tensor, Tensor] | None = None
    for i, (f_s, f_t) in enumerate(zip(ours, theirs, strict=True)):
        if f_s.shape[1] != f_t.shape[1]:
            raise ValueError(
                f"KDSVD compares vectors over channels, but at stage {i} the student has {f_s.shape[1]} and the"
                f" teacher {f_t.shape[1]}: project the student first, as KDSVDLoss does."
            )
        v_t, values = _vectors(f_t.detach(), k)
        v_t = _signed(v_t, None if signs is None else signs[i])
        scale = F.normalize(values[:, :k], dim=1).unsqueeze(1)
        v_s = _partners(_vectors(f_s, k + EXTRA)[0], v_t) * scale
        v_t = v_t * scale
        if before is not None:
            loss = loss + (_relation(before[0], v_s) - _relation(before[1], v_t)).square().sum() / len(f_s)
        before = v_s, v_t
    return loss


class KDSVDLoss(nn.Module):
    """Module form of :func:`kdsvd_loss`; a 1x1 convolution adapts the student where the channels differ.

    [1] needs equal channels; so does this, and then it has no parameters.

    Args:
        k: Singular vectors of every map.
    """

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.k = k

    def build(self, student: Maps, teacher: Maps) -> None:
        """Create the adapters."""
        ours, theirs = as_maps(student, "student"), as_maps(teacher, "teacher")
        self.adapters = nn.ModuleList(
            conv1x1(s, t)
            for s, t in zip(ours, theirs, strict=False)  # unequal lengths: the loss says so
        )

    def forward(self, student: Maps, teacher: Maps) -> Tensor:
        """See :func:`kdsvd_loss`."""
        ours = as_maps(student, "student")
        if len(ours) == len(self.adapters):
            ours = [adapter(s) for adapter, s in zip(self.adapters, ours, strict=True)]
        return kdsvd_loss(ours, teacher, k=self.k)
