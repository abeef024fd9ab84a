"""The simple recipe: linear projector, batch normalisation, logarithm of a sum (Miles and Mikolajczyk, 2024)."""

from __future__ import annotations

from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.layers import to_like
from kd_lightning.losses.ops.norm import BatchNorm


@full_precision
def srd_loss(student: Tensor, teacher: Tensor, *, exponent: float = 4.0) -> Tensor:
    r"""Logarithm of the summed powers of the differences between normalised features.

    .. math:: \log \sum_{bd} |z^s_{bd} - z^t_{bd}|^\alpha

    The logarithm divides the gradient by the size of the error, so the loss needs no scale and the largest
    differences count most.

    References:
        [0] Miles, Mikolajczyk. Understanding the Role of the Projector in Knowledge Distillation. AAAI 2024.
        [1] roymiles/Simple-Recipe-Distillation, imagenet/torchdistill/losses/single.py

    Differs from [1]: the teacher is detached inside; 1e-12 is added to the sum, so that equal features give a finite
    value (about -27.6) and gradient.

    Args:
        student: Projected and batch-normalised features, (B, D); :class:`SRDLoss` owns both layers.
        teacher: Batch-normalised teacher features, (B, D).
        exponent: The power alpha.

    Returns:
        Scalar; not bounded by 0: smaller is closer.

    Example:
        >>> import torch
        >>> srd_loss(torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])).item()
        0.0
    """
    return ((student - teacher.detach()).abs().pow(exponent).sum() + 1e-12).log()


class SRDLoss(nn.Module):
    """Module form of :func:`srd_loss`: a linear projector of the student, and both sides normalised over the batch.

    Args:
        exponent: See :func:`srd_loss`.
        eps: Added to the variances of the normalisation, as in [1].
    """

    projector: nn.Linear
    norm_student: BatchNorm
    norm_teacher: BatchNorm

    def __init__(self, exponent: float = 4.0, eps: float = 1e-4) -> None:
        super().__init__()
        self.exponent = exponent
        self.eps = eps

    def build(self, student: Tensor, teacher: Tensor) -> None:
        """Create projector and normalisations (without scale and shift) from the widths."""
        width = teacher.shape[1]
        self.projector = to_like(nn.Linear(student.shape[1], width), student)
        self.norm_student = to_like(BatchNorm(width, eps=self.eps, affine=False), student)
        self.norm_teacher = to_like(BatchNorm(width, eps=self.eps, affine=False), student)

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`srd_loss`; features before the classifier, (B, D_s) and (B, D_t)."""
        projected = self.norm_student(self.projector(student))
        return srd_loss(projected, self.norm_teacher(teacher.detach()), exponent=self.exponent)
