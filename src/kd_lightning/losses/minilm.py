"""MiniLM: self-attention and value relations of the last layer (Wang et al., 2020)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.tokens import FLOOR, token_kl


def _relation(left: Tensor, right: Tensor, heads: int) -> Tensor:
    """Scaled dot products, (B, H, T, T), of two states (B, T, D) split into heads."""
    if left.shape[-1] % heads:
        raise ValueError(f"The width {left.shape[-1]} is not a multiple of {heads} relation heads.")
    a, b = (x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(1, 2) for x in (left, right))
    return a @ b.transpose(-1, -2) / math.sqrt(a.shape[-1])


@full_precision
def attention_kl_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, mask_columns: bool = True
) -> Tensor:
    r"""KL of attention-like distributions: mean over heads and valid rows of a text, then over texts.

    .. math:: \operatorname{mean}_b \frac{1}{H\,|b|} \sum_{h,i}
        \mathrm{KL}(\operatorname{softmax}(R^t_{bhi}) \| \operatorname{softmax}(R^s_{bhi}))

    References:
        [0] Wang et al. MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
            Transformers. NeurIPS 2020.
        [1] bloomberg/minilmv2.bb, minilmv2/minilmv2.py (the authors of [0] have not released their training loss)

    Differs from [1]: padding may stand anywhere; texts without a valid token are left out of the mean over texts.

    Args:
        student: Student scores, (B, H, T, T), before the softmax.
        teacher: Teacher scores, same shape.
        mask: Valid tokens, (B, T); None for all of them.
        mask_columns: Leave padded tokens out of the softmax too; False where the scores carry an additive mask.

    Returns:
        Scalar; 0 where the scores agree or no token is valid.

    Raises:
        ValueError: Where shapes differ.

    Example:
        >>> import torch
        >>> attention_kl_loss(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).item()
        0.0
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student relations {tuple(student.shape)} and teacher relations {tuple(teacher.shape)} must have the same"
            " shape: the same number of relation heads and the same tokens."
        )
    teacher = teacher.detach()
    valid = student.new_ones(student.shape[0], student.shape[-1]) if mask is None else mask
    if valid.shape != (student.shape[0], student.shape[-1]):
        raise ValueError(f"mask {tuple(valid.shape)} must be (B, T) of the relations {tuple(student.shape)}.")
    valid = valid.bool()
    if mask is not None and mask_columns:
        columns = ~valid[:, None, None, :]
        student, teacher = student.masked_fill(columns, FLOOR), teacher.masked_fill(columns, FLOOR)
    divergence = token_kl(*(F.log_softmax(x.clamp(min=FLOOR), dim=-1) for x in (teacher, student))).mean(1)
    length = valid.sum(-1)
    per_text = divergence.masked_fill(~valid, 0).sum(-1) / length.clamp(min=1)
    return per_text.sum() / (length > 0).sum().clamp(min=1)


@full_precision
def minilm_loss(
    student_query: Tensor,
    student_key: Tensor,
    student_value: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    teacher_value: Tensor,
    mask: Tensor | None = None,
    *,
    heads: int = 12,
) -> Tensor:
    r"""Attention distributions and relations of values, of the last layers; the widths may differ.

    .. math:: \mathrm{KL}\!\left(\tfrac{Q_t K_t^\top}{\sqrt{d_t}} \Big\| \tfrac{Q_s K_s^\top}{\sqrt{d_s}}\right) +
        \mathrm{KL}\!\left(\tfrac{V_t V_t^\top}{\sqrt{d_t}} \Big\| \tfrac{V_s V_s^\top}{\sqrt{d_s}}\right)

    each between softmaxes, as in :func:`attention_kl_loss`.

    References:
        [0] Wang et al. MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
            Transformers. NeurIPS 2020.
        [1] bloomberg/minilmv2.bb, minilmv2/minilmv2.py with relations QK and VV

    Differs from [1]: padding may stand anywhere, not only right.

    Args:
        student_query: Student queries of its last layer, (B, T, D_s), all heads side by side.
        student_key: Student keys, same shape.
        student_value: Student values, same shape.
        teacher_query: Teacher queries of its last (or another) layer, (B, T, D_t).
        teacher_key: Teacher keys, same shape.
        teacher_value: Teacher values, same shape.
        mask: Valid tokens, (B, T); None for all of them.
        heads: Attention heads, the same number on both sides.

    Returns:
        Scalar; 0 where the relations agree or no token is valid.

    Raises:
        ValueError: Where the widths are no multiple of the heads or shapes differ.

    Example:
        >>> import torch
        >>> x = torch.ones(1, 2, 4)
        >>> minilm_loss(x, x, x, x, x, x, heads=2).item()
        0.0
    """
    attention = attention_kl_loss(
        _relation(student_query, student_key, heads), _relation(teacher_query, teacher_key, heads), mask
    )
    value = attention_kl_loss(
        _relation(student_value, student_value, heads), _relation(teacher_value, teacher_value, heads), mask
    )
    return attention + value


class MiniLMLoss(nn.Module):
    """Module form of :func:`minilm_loss`."""

    def __init__(self, heads: int = 12) -> None:
        super().__init__()
        self.heads = heads

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
        """See :func:`minilm_loss`."""
        student = (student_query, student_key, student_value)
        return minilm_loss(*student, teacher_query, teacher_key, teacher_value, mask, heads=self.heads)


class AttentionKLLoss(nn.Module):
    """Module form of :func:`attention_kl_loss`."""

    def __init__(self, mask_columns: bool = True) -> None:
        super().__init__()
        self.mask_columns = mask_columns

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`attention_kl_loss`."""
        return attention_kl_loss(student, teacher, mask, mask_columns=self.mask_columns)
