"""Distances of attention scores, as in TinyBERT and TextBrewer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.tokens import FLOOR


def _heads(scores: Tensor) -> Tensor:
    """Scores (B, T, T) of already merged heads as (B, 1, T, T)."""
    return scores.unsqueeze(1) if scores.dim() == 3 else scores


def _prepare(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Check the scores (B, H, T, T); the teacher detached; valid positions (B, 1, T)."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"student scores {tuple(student.shape)} and teacher scores {tuple(teacher.shape)} must have the same shape;"
            " where only the number of heads differs, merge them (merge_heads)."
        )
    if mask is None:
        mask = student.new_ones(student.shape[0], student.shape[-1])
    if mask.shape != (student.shape[0], student.shape[-1]):
        raise ValueError(f"mask {tuple(mask.shape)} must be (B, T) of the scores {tuple(student.shape)}.")
    return student, teacher.detach(), mask.bool().unsqueeze(1)


@full_precision
def attention_mse_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    merge_heads: bool = False,
    threshold: float = -100.0,
) -> Tensor:
    r"""Mean squared error of attention scores (before the softmax) over heads and pairs of valid tokens.

    .. math:: \operatorname{mean}_{b,h,i,j} (A^s_{bhij} - A^t_{bhij})^2

    References:
        [0] Jiao et al. TinyBERT: Distilling BERT for Natural Language Understanding. Findings of EMNLP 2020.
        [1] airaria/TextBrewer, src/textbrewer/losses.py (att_mse_loss, att_mse_sum_loss)

    Differs from [1]: scores at or below -100 become 0 on both sides, as in TinyBERT's code, with and without a mask.
    [1] does this without a mask only, and at -0.001, which drops every negative score.

    Args:
        student: Student scores, (B, H, T, T) or (B, T, T); masked entries may hold large negative values or -inf.
        teacher: Teacher scores, same shape; any number of heads with ``merge_heads``.
        mask: Valid tokens, (B, T); None for all of them.
        merge_heads: Compare the sums over heads.
        threshold: Scores at or below it count as 0.

    Returns:
        Scalar; 0 where the scores agree or no token is valid.

    Raises:
        ValueError: Where shapes differ.

    Example:
        >>> import torch
        >>> attention_mse_loss(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0)).item()
        9.0
    """
    student, teacher = _heads(student), _heads(teacher)
    if merge_heads:
        student, teacher = student.sum(1, keepdim=True), teacher.sum(1, keepdim=True)
    student, teacher, valid = _prepare(student, teacher, mask)
    student = student.masked_fill(student.detach() <= threshold, 0)
    teacher = teacher.masked_fill(teacher <= threshold, 0)
    pairs = (valid.unsqueeze(-1) & valid.unsqueeze(-2)).expand_as(student)
    return masked_mean((student - teacher).square(), pairs)


@full_precision
def attention_ce_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    merge_heads: bool = False,
    threshold: float = -100.0,
) -> Tensor:
    r"""Cross-entropy of the attention distributions, averaged over heads and valid rows.

    .. math:: -\operatorname{mean}_{b,h,i} \sum_j \operatorname{softmax}(A^t_{bhi})_j
        \log \operatorname{softmax}(A^s_{bhi})_j

    References:
        [0] Yang et al. TextBrewer: An Open-Source Knowledge Distillation Toolkit for Natural Language Processing. ACL
            2020.
        [1] airaria/TextBrewer, src/textbrewer/losses.py (att_ce_loss, att_ce_mean_loss)

    Differs from [1]: the teacher's probability is dropped where its score is at or below -100, with and without a
    mask; [1] does this without a mask only, and at -0.001.

    Args:
        student: Student scores, (B, H, T, T) or (B, T, T), before the softmax.
        teacher: Teacher scores, same shape; any number of heads with ``merge_heads``.
        mask: Valid tokens, (B, T); other columns are left out of the sum and other rows out of the mean.
        merge_heads: Compare the distributions of the scores averaged over heads.
        threshold: The teacher gives no mass to scores at or below it.

    Returns:
        Scalar, the KL plus the teacher's entropy; 0 where no token is valid.

    Raises:
        ValueError: Where shapes differ.

    Example:
        >>> import torch
        >>> round(attention_ce_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)).item(), 4)  # log 2
        0.6931
    """
    student, teacher = _heads(student), _heads(teacher)
    if merge_heads:
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    student, teacher, valid = _prepare(student, teacher, mask)
    log_student = F.log_softmax(student.clamp(min=FLOOR), dim=-1)
    dropped = (teacher <= threshold) | ~valid.unsqueeze(-2)
    probabilities = F.softmax(teacher.clamp(min=FLOOR), dim=-1).masked_fill(dropped, 0)
    cross_entropy = -(probabilities * log_student).sum(-1)
    return masked_mean(cross_entropy, valid.expand_as(cross_entropy))


class AttentionMSELoss(nn.Module):
    """Module form of :func:`attention_mse_loss`."""

    def __init__(self, merge_heads: bool = False, threshold: float = -100.0) -> None:
        super().__init__()
        self.merge_heads = merge_heads
        self.threshold = threshold

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`attention_mse_loss`."""
        return attention_mse_loss(student, teacher, mask, merge_heads=self.merge_heads, threshold=self.threshold)


class AttentionCELoss(nn.Module):
    """Module form of :func:`attention_ce_loss`."""

    def __init__(self, merge_heads: bool = False, threshold: float = -100.0) -> None:
        super().__init__()
        self.merge_heads = merge_heads
        self.threshold = threshold

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`attention_ce_loss`."""
        return attention_ce_loss(student, teacher, mask, merge_heads=self.merge_heads, threshold=self.threshold)
