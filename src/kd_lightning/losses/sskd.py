"""Self-supervision as an auxiliary task of distillation (Xu et al., 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean


def _similarities(x: Tensor, views: int) -> Tensor:
    """(V*B, D) -> ((V-1)*B, B) cosines of every transformed sample with every plain one."""
    if views < 2 or len(x) % views:
        raise ValueError(
            f"SSKD needs a batch of {views} (at least 2) stacked views of the same samples, but the batch has {len(x)}"
            " rows: set the method's rollout to kd_lightning.core.rollouts.Rotations."
        )
    unit = F.normalize(x.flatten(1), dim=1)
    batch = len(x) // views
    return unit[batch:] @ unit[:batch].T


def _origin(similarities: Tensor) -> Tensor:
    """The column each row belongs to: row i is a transformed copy of sample i mod B."""
    return torch.arange(len(similarities), device=similarities.device) % similarities.shape[1]


@full_precision
def sskd_pretext_loss(embedding: Tensor, *, views: int = 4) -> Tensor:
    """Contrastive task that a projection head learns: find the sample that a transformed copy was made of.

    Cross-entropy of the cosines, without a temperature.

    References:
        [0] Xu, Liu, Li, Loy. Knowledge Distillation Meets Self-Supervision. ECCV 2020.
        [1] xuguodong03/SSKD, student.py

    Args:
        embedding: Projected features (V*B, D): B plain samples, then the B samples of each further view.
        views: Number V of views, the plain one included.

    Returns:
        Scalar, mean over the transformed samples.

    Example:
        >>> import torch
        >>> round(sskd_pretext_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(2, 1), views=2).item(), 3)
        0.313
    """
    similarities = _similarities(embedding, views)
    return F.cross_entropy(similarities, _origin(similarities))


@full_precision
def sskd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    views: int = 4,
    temperature: float = 0.5,
    keep_wrong: float = 0.75,
) -> Tensor:
    r"""Distillation of the similarities between transformed and plain samples.

    .. math:: T^2 \cdot \operatorname{mean}_{i \in K} \operatorname{KL}\!\left(
        \operatorname{softmax}(A^t_i / T) \,\Vert\, \operatorname{softmax}(A^s_i / T)\right), \qquad
        A_{ij} = \cos(\tilde z_i, z_j)

    over transformed samples i and plain samples j. K holds the rows in which the teacher finds the right plain sample
    and, of the wrong ones, the share ``keep_wrong`` in which it ranks it best.

    References:
        [0] Xu, Liu, Li, Loy. Knowledge Distillation Meets Self-Supervision. ECCV 2020.
        [1] xuguodong03/SSKD, student.py (its loss4)

    Differs from [1]: views lie in blocks instead of interleaved; among wrong rows of equal rank the first are kept
    ([1]: whichever the sort gives). The contrast set is the batch of one process. The other two terms of the method,
    distillation of the outputs on plain and on transformed samples, are a kd term over all views: with the published
    weights (0.9 and 2.7 for three transformed views, T = 4, all kept) they are one mean over 4B rows of weight 3.6.

    Args:
        student: Projected student features (V*B, D_s): B plain samples, then the B samples of each further view.
        teacher: Projected teacher features (V*B, D_t), in the same order.
        views: Number V of views, the plain one included.
        temperature: Softening T of the similarities; the loss is scaled by its square.
        keep_wrong: Share of the wrong rows that is kept, 0 to 1.

    Returns:
        Scalar; 0 where the similarities agree.

    Raises:
        ValueError: Where the batch does not divide into ``views``.

    Example:
        >>> import torch
        >>> x = torch.randn(8, 3)
        >>> sskd_loss(2 * x, x).abs().item() < 1e-6
        True
    """
    target = _similarities(teacher.detach(), views)
    log_student = F.log_softmax(_similarities(student, views) / temperature, dim=1)
    log_teacher = F.log_softmax(target / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)

    right = target.gather(1, _origin(target).unsqueeze(1))
    rank = (target > right).sum(1)
    wrong = (rank > 0).sum()
    kept = len(rank) - wrong + (wrong * keep_wrong).floor()
    place = rank.argsort(stable=True).argsort()
    return masked_mean(divergence, place < kept) * temperature**2


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


class SSKDLoss(nn.Module):
    """Projection heads of student and teacher, then :func:`sskd_loss`.

    The teacher's head must know the task before it can teach it: while its parameters require a gradient, the loss
    contains :func:`sskd_pretext_loss` of the teacher, which trains that head and nothing else. A method gives it a
    first stage in which only ``teacher_head`` learns, and freezes it after.

    Args:
        views: Number of views in the batch, the plain one included.
        temperature: Softening of the similarities.
        keep_wrong: Share of the teacher's wrong rows that is kept.
        pretext_weight: Weight of the teacher head's own task inside this loss.
    """

    def __init__(
        self, views: int = 4, temperature: float = 0.5, keep_wrong: float = 0.75, pretext_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.views = views
        self.temperature = temperature
        self.keep_wrong = keep_wrong
        self.pretext_weight = pretext_weight

    def build(self, student: Tensor, teacher: Tensor) -> None:
        """Create the heads, each as wide as the features it gets."""
        self.student_head = _head(student.flatten(1).shape[1])
        self.teacher_head = _head(teacher.flatten(1).shape[1])

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`sskd_loss`; ``student`` (V*B, D_s) and ``teacher`` (V*B, D_t) are projected first."""
        z_student = self.student_head(student.flatten(1))
        z_teacher = self.teacher_head(teacher.detach().flatten(1))
        loss: Tensor = sskd_loss(
            z_student, z_teacher, views=self.views, temperature=self.temperature, keep_wrong=self.keep_wrong
        )
        if z_teacher.requires_grad:
            loss = loss + self.pretext_weight * sskd_pretext_loss(z_teacher, views=self.views)
        return loss
