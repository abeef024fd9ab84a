"""Patient knowledge distillation: the [CLS] states of several layers (Sun et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision

Reduction = Literal["sum", "mean"]


@full_precision
def pkd_hidden_loss(student: Tensor, teacher: Tensor, *, reduction: Reduction = "sum") -> Tensor:
    r"""Squared distance of the normalised [CLS] states of one layer.

    .. math:: \operatorname{mean}_b \left\| \frac{h^s_b}{\|h^s_b\|} - \frac{h^t_b}{\|h^t_b\|} \right\|_2^2

    References:
        [0] Sun, Cheng, Gan, Liu. Patient Knowledge Distillation for BERT Model Compression. EMNLP 2019.
        [1] intersun/PKD-for-BERT-Model-Compression, src/KD_loss.py (patience_loss)
        [2] airaria/TextBrewer, src/textbrewer/losses.py (pkd_loss)

    Differs from [1]: sum over the width as in [0] and [2] (``reduction="mean"`` for [1], whose published weights
    belong to it); not rounded to half precision. Differs from [2]: finite on a zero vector.

    Args:
        student: Student states, (B, T, D), of which position 0 is taken, or (B, D).
        teacher: Teacher states, same shape or (B, D).
        reduction: ``sum`` or ``mean`` over the width; always the mean over the batch.

    Returns:
        Scalar; 0 where the directions agree.

    Raises:
        ValueError: Where the widths differ.

    Example:
        >>> import torch
        >>> pkd_hidden_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])).item()
        2.0
    """
    first = [x[:, 0] if x.dim() == 3 else x for x in (student, teacher.detach())]
    if first[0].shape != first[1].shape:
        raise ValueError(
            f"student states {tuple(student.shape)} and teacher states {tuple(teacher.shape)} must have the same width"
            " (the method copies layers of the teacher). For another width use hidden_mse, which projects."
        )
    distance = (F.normalize(first[0], dim=-1) - F.normalize(first[1], dim=-1)).square()
    return distance.sum(-1).mean() if reduction == "sum" else distance.mean()


class PKDHiddenLoss(nn.Module):
    """:func:`pkd_hidden_loss` over pairs of layers.

    Args:
        layers: ``skip`` pairs student layer j of M with teacher layer j * N / M, ``last`` with the last ones before
            the output; both leave the last layer out, which the logit loss teaches. Or pairs [student, teacher] of
            positions in the lists of hidden states, where 0 is the embedding.
        reduction: ``sum`` over the width and the layers as in the paper, or ``mean`` over both as in its code.
    """

    def __init__(self, layers: str | Sequence[Sequence[int]] = "skip", reduction: Reduction = "sum") -> None:
        super().__init__()
        if isinstance(layers, str) and layers not in ("skip", "last"):
            raise ValueError(f"layers must be 'skip', 'last' or a list of pairs [student, teacher], not '{layers}'.")
        self.layers = layers
        self.reduction: Reduction = reduction

    def pairs(self, student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
        """Pairs of positions for M student and N teacher layers."""
        if not isinstance(self.layers, str):
            return [(s, t) for s, t in self.layers]
        if not 2 <= student_layers <= teacher_layers:
            raise ValueError(
                f"PKD pairs the layers below the last: it needs 2 to {teacher_layers} student layers, not"
                f" {student_layers}. Give explicit pairs in layers."
            )
        last = self.layers == "last"
        offset = teacher_layers - student_layers
        return [
            (j, j + offset if last else round(j * teacher_layers / student_layers)) for j in range(1, student_layers)
        ]

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Lists of hidden states (B, T, D), the embedding first."""
        pairs = self.pairs(len(student) - 1, len(teacher) - 1)
        losses = [pkd_hidden_loss(student[s], teacher[t], reduction=self.reduction) for s, t in pairs]
        total = sum(losses[1:], losses[0])
        return total if self.reduction == "sum" else total / len(losses)
