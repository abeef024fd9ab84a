"""Similarity-preserving distillation (Tung and Mori, 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision


def _similarities(x: Tensor) -> Tensor:
    """(B, ...) -> (B, B) inner products of the flattened samples, every row of unit length."""
    x = x.flatten(1)
    gram: Tensor = x @ x.T
    norm: Tensor = torch.linalg.vector_norm(gram, dim=1, keepdim=True)
    # The row of a sample of zeros has no direction: it is zero without a gradient (else that is divided by 1e-12).
    return (gram / norm.clamp(min=1e-12)).masked_fill(norm <= 1e-12, 0.0)


@full_precision
def sp_loss(student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> Tensor:
    r"""Squared difference of the row-normalised batch similarity matrices.

    .. math:: \frac{1}{B^2} \lVert \tilde G^t - \tilde G^s \rVert_F^2, \qquad
        G = F F^\top, \quad \tilde G_i = G_i / \lVert G_i \rVert_2

    References:
        [0] Tung, Mori. Similarity-Preserving Knowledge Distillation. ICCV 2019.
        [1] HobbitLong/RepDistiller, distiller_zoo/SP.py (the authors' code is not public)

    Differs from [1]: the teacher is detached inside; the row of a sample of zeros is
    left without a gradient, which [1] divides by 1e-12.

    Args:
        student: Student features, (B, ...), flattened per sample, or a list of them (one a stage), which are summed.
        teacher: Teacher features, as many; only B must agree.

    Returns:
        Scalar; 0 where the similarities agree.

    Raises:
        ValueError: Where the lists differ in length.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> sp_loss(3 * x, x).item()
        0.0
    """
    students = [student] if isinstance(student, Tensor) else list(student)
    teachers = [teacher] if isinstance(teacher, Tensor) else list(teacher)
    if len(students) != len(teachers):
        raise ValueError(
            f"SP compares stage by stage, but the student gives {len(students)} features and the teacher"
            f" {len(teachers)}. Name as many references for one as for the other."
        )
    loss = students[0].new_zeros(())
    for f_s, f_t in zip(students, teachers, strict=True):
        loss = loss + (_similarities(f_s) - _similarities(f_t.detach())).square().mean()
    return loss


class SPLoss(nn.Module):
    """Module form of :func:`sp_loss`."""

    def forward(self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> Tensor:
        """See :func:`sp_loss`."""
        return sp_loss(student, teacher)
