"""MobileBERT: feature maps and attention distributions, layer by layer (Sun et al., 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_lightning.losses.hidden import hidden_mse_loss
from kd_lightning.losses.minilm import attention_kl_loss
from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.transformer import layer_map


@full_precision
def mobilebert_loss(
    student_attentions: list[Tensor],
    teacher_attentions: list[Tensor],
    student_hidden: list[Tensor],
    teacher_hidden: list[Tensor],
    mask: Tensor | None = None,
    *,
    layers: Sequence[int] | None = None,
) -> Tensor:
    r"""Layer-wise transfer: squared error of the hidden states and KL of the attention distributions.

    .. math:: \sum_{m=1}^{M} \mathrm{MSE}(h^s_m, h^t_{g(m)}) + \operatorname{mean}_{b,h,i}
        \mathrm{KL}(\operatorname{softmax} A^t_{g(m)} \| \operatorname{softmax} A^s_m)

    References:
        [0] Sun, Yu, Song, Liu, Yang, Zhou. MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices.
            ACL 2020 (its feature map transfer and attention transfer).
        [1] None: the authors have not released their training code.

    Differs from [1]: the numbers of layers may differ; padded tokens are left out.

    Args:
        student_attentions: M student scores before the softmax, (B, H, T, T).
        teacher_attentions: N teacher scores, same shapes.
        student_hidden: M + 1 student states, (B, T, D); the first, the embedding, is not compared.
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
        >>> mobilebert_loss(scores, scores, states, states).item()
        0.0
    """
    chosen = layer_map(layers, len(student_attentions), len(teacher_attentions))
    hidden = [hidden_mse_loss(s, teacher_hidden[g], mask) for s, g in zip(student_hidden[1:], chosen, strict=True)]
    attention = [
        attention_kl_loss(s, teacher_attentions[g - 1], mask) for s, g in zip(student_attentions, chosen, strict=True)
    ]
    return sum(hidden[1:] + attention, hidden[0])


class MobileBERTLoss(nn.Module):
    """Module form of :func:`mobilebert_loss`, with one projection a layer where the widths differ."""

    def __init__(self, layers: Sequence[int] | None = None) -> None:
        super().__init__()
        self.layers = None if layers is None else list(layers)
        self.projections = nn.ModuleList()

    def build(
        self,
        student_attentions: list[Tensor],
        teacher_attentions: list[Tensor],
        student_hidden: list[Tensor],
        teacher_hidden: list[Tensor],
        mask: Tensor | None = None,
    ) -> None:
        """Create the projections from the student's to the teacher's width."""
        width = teacher_hidden[-1].shape[-1]
        for state in student_hidden[1:]:
            same = state.shape[-1] == width
            self.projections.append(nn.Identity() if same else nn.Linear(state.shape[-1], width, device=state.device))

    @full_precision
    def forward(
        self,
        student_attentions: list[Tensor],
        teacher_attentions: list[Tensor],
        student_hidden: list[Tensor],
        teacher_hidden: list[Tensor],
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`mobilebert_loss`; the student's hidden states keep their own width."""
        projections = list(self.projections) or [nn.Identity()] * len(student_hidden[1:])
        projected = [p(state) for p, state in zip(projections, student_hidden[1:], strict=True)]
        states = [student_hidden[0], *projected]
        return mobilebert_loss(student_attentions, teacher_attentions, states, teacher_hidden, mask, layers=self.layers)
