"""TinyBERT: attention scores and hidden states of mapped layers (Jiao et al., 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_lightning.losses.attention_scores import attention_mse_loss
from kd_lightning.losses.hidden import hidden_mse_loss
from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.transformer import check_states, layer_map


@full_precision
def tinybert_loss(
    student_attentions: list[Tensor],
    teacher_attentions: list[Tensor],
    student_hidden: list[Tensor],
    teacher_hidden: list[Tensor],
    mask: Tensor | None = None,
    *,
    layers: Sequence[int] | None = None,
) -> Tensor:
    r"""Transformer distillation: embedding, hidden states and attention scores of every student layer.

    .. math:: \sum_{m=1}^{M} \mathrm{MSE}(A^s_m, A^t_{g(m)}) + \sum_{m=0}^{M} \mathrm{MSE}(W h^s_m, h^t_{g(m)}),
        \qquad g(m) = m N / M

    References:
        [0] Jiao et al. TinyBERT: Distilling BERT for Natural Language Understanding. Findings of EMNLP 2020.
        [1] huawei-noah/Pretrained-Language-Model, TinyBERT/task_distill.py (intermediate distillation)

    Differs from [1]: with a mask, padded tokens are left out of both means, so that the value does not depend on the
    padding; None gives the value of [1].

    Args:
        student_attentions: M student scores before the softmax, (B, H, T, T); values at or below -100 count as 0.
        teacher_attentions: N teacher scores, same shapes.
        student_hidden: M + 1 student states, (B, T, D), projected to the teacher's width; the embedding first.
        teacher_hidden: N + 1 teacher states, (B, T, D).
        mask: Valid tokens, (B, T); None for all of them.
        layers: The teacher's layer, from 1, of each student layer; None for m * N / M.

    Returns:
        Scalar; 0 where everything agrees or no token is valid.

    Raises:
        ValueError: Where the layers cannot be mapped or shapes differ.

    Example:
        >>> import torch
        >>> scores, states = [torch.zeros(1, 1, 2, 2)], [torch.ones(1, 2, 4)] * 2
        >>> tinybert_loss(scores, scores, states, states).item()
        0.0
    """
    check_states("TinyBERT", student_attentions, teacher_attentions, student_hidden, teacher_hidden)
    chosen = layer_map(layers, len(student_attentions), len(teacher_attentions))
    attention = [
        attention_mse_loss(s, teacher_attentions[g - 1], mask) for s, g in zip(student_attentions, chosen, strict=True)
    ]
    hidden = [hidden_mse_loss(s, teacher_hidden[g], mask) for s, g in zip(student_hidden, [0, *chosen], strict=True)]
    return sum(attention + hidden[1:], hidden[0])


class TinyBERTLoss(nn.Module):
    """Module form of :func:`tinybert_loss`, with one projection that all layers share."""

    def __init__(self, layers: Sequence[int] | None = None) -> None:
        super().__init__()
        self.layers = None if layers is None else list(layers)
        self.projection: nn.Module = nn.Identity()

    def build(
        self,
        student_attentions: list[Tensor],
        teacher_attentions: list[Tensor],
        student_hidden: list[Tensor],
        teacher_hidden: list[Tensor],
        mask: Tensor | None = None,
    ) -> None:
        """Create the projection from the student's to the teacher's width."""
        student = student_hidden[0]
        self.projection = nn.Linear(student.shape[-1], teacher_hidden[0].shape[-1], device=student.device)

    @full_precision
    def forward(
        self,
        student_attentions: list[Tensor],
        teacher_attentions: list[Tensor],
        student_hidden: list[Tensor],
        teacher_hidden: list[Tensor],
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`tinybert_loss`; the student's hidden states keep their own width."""
        projected = [self.projection(state) for state in student_hidden]
        return tinybert_loss(
            student_attentions, teacher_attentions, projected, teacher_hidden, mask, layers=self.layers
        )
