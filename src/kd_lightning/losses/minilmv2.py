"""MiniLMv2: relations of queries, keys and values with a free number of heads (Wang et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_lightning.losses.minilm import _relation, attention_kl_loss
from kd_lightning.losses.ops.common import full_precision


@full_precision
def minilmv2_loss(
    student_query: Tensor,
    student_key: Tensor,
    student_value: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    teacher_value: Tensor,
    mask: Tensor | None = None,
    *,
    relation_heads: int = 48,
    weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3),
) -> Tensor:
    r"""Query-query, key-key and value-value relations of one layer of each side.

    .. math:: \sum_{X \in \{Q, K, V\}} w_X\, \mathrm{KL}\!\left(\tfrac{X_t X_t^\top}{\sqrt{d_t}} \Big\|
        \tfrac{X_s X_s^\top}{\sqrt{d_s}}\right)

    between softmaxes, as in :func:`~kd_lightning.losses.minilm.attention_kl_loss`. The states are split anew into
    ``relation_heads``, so that widths and numbers of attention heads may differ.

    References:
        [0] Wang, Bao, Huang, Dong, Wei. MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing
            Pretrained Transformers. Findings of ACL 2021.
        [1] bloomberg/minilmv2.bb, minilmv2/minilmv2.py (the authors of [0] have not released their training loss)

    Differs from [1]: padding may stand anywhere, not only right.

    Args:
        student_query: Student queries of its last layer, (B, T, D_s), all heads side by side.
        student_key: Student keys, same shape.
        student_value: Student values, same shape.
        teacher_query: Teacher queries, (B, T, D_t); the last layer of a base, an upper middle one of a large model.
        teacher_key: Teacher keys, same shape.
        teacher_value: Teacher values, same shape.
        mask: Valid tokens, (B, T); None for all of them.
        relation_heads: Number of heads that both are split into; divides both widths.
        weights: Weights of the query, key and value relations.

    Returns:
        Scalar; 0 where the relations agree or no token is valid.

    Raises:
        ValueError: Where the widths are no multiple of the heads or shapes differ.

    Example:
        >>> import torch
        >>> x = torch.ones(1, 2, 4)
        >>> minilmv2_loss(x, x, x, x, x, x, relation_heads=2).item()
        0.0
    """
    student = (student_query, student_key, student_value)
    teacher = (teacher_query, teacher_key, teacher_value)
    losses = [
        weight * attention_kl_loss(_relation(s, s, relation_heads), _relation(t, t, relation_heads), mask)
        for weight, s, t in zip(weights, student, teacher, strict=True)
    ]
    return sum(losses[1:], losses[0])


class MiniLMv2Loss(nn.Module):
    """Module form of :func:`minilmv2_loss`."""

    def __init__(self, relation_heads: int = 48, weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3)) -> None:
        super().__init__()
        if len(weights) != 3:
            raise ValueError(f"weights must be those of the query, key and value relations, not {list(weights)}.")
        self.relation_heads = relation_heads
        self.weights = tuple(weights)

    def forward(
        self,
        student_query: Tensor,
        student_key: Tensor,
        student_value: Tensor,
        teacher_query: Tensor,
        teacher_key: Tensor,
        teacher_value: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`minilmv2_loss`."""
        return minilmv2_loss(
            student_query,
            student_key,
            student_value,
            teacher_query,
            teacher_key,
            teacher_value,
            mask,
            relation_heads=self.relation_heads,
            weights=self.weights,
        )
