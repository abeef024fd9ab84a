"""Correlation congruence (Peng et al., 2019)."""

from __future__ import annotations

from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision


@full_precision
def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Product of the absolute errors of neighbouring samples of the batch.

    .. math:: \frac{1}{B - 1} \sum_{i=1}^{B-1} \sum_d
        \lvert s_{i,d} - t_{i,d} \rvert \, \lvert s_{i+1,d} - t_{i+1,d} \rvert

    References:
        [0] Peng et al. Correlation Congruence for Knowledge Distillation. ICCV 2019.
        [1] HobbitLong/RepDistiller, distiller_zoo/CC.py (by its note, code received from the authors)

    [1] is not the kernel formula of [0]; the published CIFAR-100 comparisons use [1], and so does this.

    Differs from [1]: 0 for a batch of one, where [1] has nan.

    Args:
        student: Student embeddings, (B, D).
        teacher: Teacher embeddings, (B, D). Not detached here: they come from a projection that learns (see
            :class:`CCLoss`); detach features that nobody projects.

    Returns:
        Scalar; it depends on the order of the batch.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> cc_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [0.0]])).item()
        2.0
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"CC compares embeddings of one shape, not {tuple(student.shape)} with {tuple(teacher.shape)}:"
            " project both first, as CCLoss does."
        )
    error = (student - teacher).abs()
    return (error[:-1] * error[1:]).sum() / max(len(error) - 1, 1)


class CCLoss(nn.Module):
    """Linear embeddings of both sides into ``dim`` dimensions, then :func:`cc_loss`.

    The embedding of the teacher learns too, as in [1]; the teacher itself gets no gradient.

    Args:
        dim: Width of the common space.
    """

    def __init__(self, dim: int = 128) -> None:
        super().__init__()
        self.dim = dim

    def build(self, student: Tensor, teacher: Tensor) -> None:
        """Create the two embeddings for features of these widths."""
        self.embed_student = nn.Linear(student.flatten(1).shape[1], self.dim)
        self.embed_teacher = nn.Linear(teacher.flatten(1).shape[1], self.dim)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`cc_loss`; ``student`` (B, D_s) and ``teacher`` (B, D_t) are embedded first."""
        teacher = teacher.detach().flatten(1)
        return cc_loss(self.embed_student(student.flatten(1)), self.embed_teacher(teacher))
