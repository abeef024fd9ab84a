"""Relational knowledge distillation: distances and angles between the samples of a batch (Park et al., 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision


def _relative_distances(x: Tensor) -> Tensor:
    """(B, D) -> (B, B) Euclidean distances over their mean, zero on the diagonal."""
    # Differences, not the Gram matrix: in float32 the Gram form puts equal rows a visible distance apart.
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=1e-6)
    distances = distances.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), 0.0)
    pairs = max(len(x) * (len(x) - 1), 1)
    return distances / (distances.sum() / pairs).clamp(min=1e-12)


def _angles(x: Tensor, coincident: bool) -> Tensor:
    """(B, D) -> (B, B, B) cosines at each vertex; 0 where two corners are the same point."""
    difference = x.unsqueeze(0) - x.unsqueeze(1)
    norm = torch.linalg.vector_norm(difference, dim=2, keepdim=True)
    direction: Tensor = difference / norm.clamp(min=1e-12)
    if not coincident:
        direction = direction.masked_fill(norm <= 1e-12, 0.0)
    return direction @ direction.mT


@full_precision
def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Smooth L1 between the student's and the teacher's pairwise distances, each relative to its mean.

    .. math:: \frac{1}{B^2} \sum_{ij}
        \operatorname{smooth}_{L1}\!\left(d^s_{ij} / \bar d^s,\; d^t_{ij} / \bar d^t\right)

    References:
        [0] Park, Kim, Lu, Cho. Relational Knowledge Distillation. CVPR 2019.
        [1] lenscloth/RKD, metric/loss.py

    Differs from [1]: distances from differences instead of the Gram matrix (equal up to rounding); 0 for a batch of
    one, where [1] has nan.

    Args:
        student: Student features, (B, D_s) or (B, ...), flattened per sample.
        teacher: Teacher features, (B, D_t) or (B, ...); the width may differ.

    Returns:
        Scalar, the mean over all B squared pairs, the diagonal included; 0 where all relative distances agree.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 0.0]])
        >>> rkd_distance_loss(2 * x, x).item()
        0.0
    """
    with torch.no_grad():
        target = _relative_distances(teacher.flatten(1))
    return F.smooth_l1_loss(_relative_distances(student.flatten(1)), target)


@full_precision
def rkd_angle_loss(student: Tensor, teacher: Tensor, *, coincident_gradient: bool = False) -> Tensor:
    r"""Smooth L1 between the cosines of all angles that three samples form.

    .. math:: \frac{1}{B^3} \sum_{ijk} \operatorname{smooth}_{L1}\!\left(\cos\angle^s_{jik},\; \cos\angle^t_{jik}\right)

    References:
        [0] Park, Kim, Lu, Cho. Relational Knowledge Distillation. CVPR 2019.
        [1] lenscloth/RKD, metric/loss.py

    Differs from [1]: samples that coincide in the student give each other no gradient; in [1] that gradient is divided
    by 1e-12 (about 1e10 in practice) and ends a training.

    Args:
        student: Student features, (B, D_s) or (B, ...), flattened per sample.
        teacher: Teacher features, (B, D_t) or (B, ...); the width may differ.
        coincident_gradient: The gradient of [1] for coinciding samples.

    Returns:
        Scalar, the mean over all B cubed triples; 0 where all angles agree.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 0.0]])
        >>> rkd_angle_loss(2 * x, x).item()
        0.0
    """
    with torch.no_grad():
        target = _angles(teacher.flatten(1), coincident_gradient)
    return F.smooth_l1_loss(_angles(student.flatten(1), coincident_gradient), target)


@full_precision
def rkd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    coincident_gradient: bool = False,
) -> Tensor:
    """Distance-wise and angle-wise relational distillation together.

    ``distance_weight * rkd_distance_loss + angle_weight * rkd_angle_loss``; a part of weight 0 is not computed (the
    angles take B^2 (B + D) numbers).

    References:
        [0] Park, Kim, Lu, Cho. Relational Knowledge Distillation. CVPR 2019.
        [1] lenscloth/RKD, metric/loss.py; both parts together with 25 and 50: HobbitLong/RepDistiller,
            distiller_zoo/RKD.py

    Differs from [1]: see :func:`rkd_distance_loss` and :func:`rkd_angle_loss`.

    Args:
        student: Student features, (B, D_s) or (B, ...), flattened per sample.
        teacher: Teacher features, (B, D_t) or (B, ...); the width may differ.
        distance_weight: Weight of the distances.
        angle_weight: Weight of the angles.
        coincident_gradient: See :func:`rkd_angle_loss`.

    Returns:
        Scalar; 0 where the relations agree and for a batch of one.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 0.0]])
        >>> rkd_loss(2 * x, x).item()
        0.0
    """
    loss = student.new_zeros(())
    if distance_weight:
        loss = loss + distance_weight * rkd_distance_loss(student, teacher)
    if angle_weight:
        angle = rkd_angle_loss(student, teacher, coincident_gradient=coincident_gradient)
        loss = loss + angle_weight * angle
    return loss


class RKDLoss(nn.Module):
    """Module form of :func:`rkd_loss`; a weight of 0 leaves the distances or the angles alone."""

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        if not (distance_weight or angle_weight):
            raise ValueError("RKDLoss compares nothing: give distance_weight or angle_weight a value other than 0.")
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`rkd_loss`."""
        return rkd_loss(student, teacher, distance_weight=self.distance_weight, angle_weight=self.angle_weight)
