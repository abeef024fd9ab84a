"""Class attention transfer (Guo et al., 2023)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.heads import class_activation_maps
from kd_lightning.losses.ops.maps import as_map, check_channels


@full_precision
def catkd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    resolution: int = 2,
    normalize: bool = True,
    binarize: bool = False,
) -> Tensor:
    r"""Squared error between the class activation maps of student and teacher, pooled to a few positions.

    .. math:: \operatorname{mean}_{bcij} \bigl(n(\operatorname{pool}_r A^s) - n(\operatorname{pool}_r A^t)\bigr)^2

    where n divides each class's map by its L2 norm, or is the identity.

    References:
        [0] Guo, Yan, Li, Lin. Class Attention Transfer Based Knowledge Distillation. CVPR 2023.
        [1] GzyAftermath/CAT-KD, mdistiller/distillers/CAT_KD.py

    Differs from [1]: the teacher is detached inside; the weight is outside; the transfer of some classes only is left
    out.

    Args:
        student: Class activation maps, (B, classes, H, W).
        teacher: Class activation maps, (B, classes, H', W').
        resolution: Height and width r after the average pooling.
        normalize: Compare directions instead of magnitudes. On for CAT (maps alone) in [1], off for CAT-KD.
        binarize: Replace the teacher's maps by 1 where they are above their own mean magnitude, else 0.

    Returns:
        Scalar; 0 where the maps agree (and are not binarised).

    Raises:
        ValueError: Different numbers of classes.

    Example:
        >>> import torch
        >>> catkd_loss(torch.ones(1, 3, 4, 4), 2 * torch.ones(1, 3, 8, 8)).item()
        0.0
    """
    check_channels(student, teacher, "CATKDLoss")
    teacher = teacher.detach()
    if binarize:
        teacher = (teacher > teacher.abs().mean((2, 3), keepdim=True)).to(teacher.dtype)
    student, teacher = (F.adaptive_avg_pool2d(x, resolution) for x in (student, teacher))
    if normalize:
        student, teacher = (F.normalize(x.flatten(2), dim=2) for x in (student, teacher))
    return F.mse_loss(student, teacher)


class CATKDLoss(nn.Module):
    """Module form of :func:`catkd_loss`: computes the class activation maps from features and classifiers.

    Differs from [1]: there the classifier of the network is replaced by a 1x1 convolution without bias whose maps are
    pooled; here the network stays as it is and its linear classifier is applied at every position, which gives the
    same maps, and its bias stays in the logits.

    Args:
        resolution: See :func:`catkd_loss`.
        normalize: See :func:`catkd_loss`.
        binarize: See :func:`catkd_loss`.
    """

    def __init__(self, resolution: int = 2, normalize: bool = True, binarize: bool = False) -> None:
        super().__init__()
        self.resolution = resolution
        self.normalize = normalize
        self.binarize = binarize

    def forward(self, student: Tensor, teacher: Tensor, student_head: nn.Module, teacher_head: nn.Module) -> Tensor:
        """Loss of the maps (B, D, H, W) that the classifiers see pooled.

        Args:
            student: Last map of the student (or tokens of a vision transformer).
            teacher: Last map of the teacher.
            student_head: The student's classifier; its weights get a gradient.
            teacher_head: The teacher's classifier; read only.
        """
        return catkd_loss(
            class_activation_maps(as_map(student), student_head, frozen=False),
            class_activation_maps(as_map(teacher), teacher_head, frozen=True),
            resolution=self.resolution,
            normalize=self.normalize,
            binarize=self.binarize,
        )
