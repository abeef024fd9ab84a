"""BERT-EMD: many-to-many layers by the earth mover's distance (Li et al., 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_lightning.losses.attention_scores import attention_mse_loss
from kd_lightning.losses.hidden import hidden_mse_loss
from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.transformer import check_states
from kd_lightning.losses.ops.transport import transport


@full_precision
def emd_loss(
    student_attentions: list[Tensor],
    teacher_attentions: list[Tensor],
    student_hidden: list[Tensor],
    teacher_hidden: list[Tensor],
    mask: Tensor | None = None,
) -> Tensor:
    r"""Embedding, and every student layer to the teacher layers that it costs least to learn from.

    .. math:: \mathrm{MSE}(h^s_0, h^t_0) + \sum_{ij} f^h_{ij}\, \mathrm{MSE}(h^s_i, h^t_j)
        + \sum_{ij} f^a_{ij}\, \mathrm{MSE}(A^s_i, A^t_j)

    The flows :math:`f` solve the transport problem between the layers' weights, here equal on each side; the module
    form learns the weights from the costs.

    References:
        [0] Li, Liu, Zhao, Zhang, Ma. BERT-EMD: Many-to-Many Layer Mapping for BERT Compression with Earth Mover's
            Distance. EMNLP 2020.
        [1] lxk00/BERT-EMD, run_emd_glue.py

    Differs from [1]: with a mask, padded tokens are left out of all means.

    Args:
        student_attentions: M student scores before the softmax, (B, H, T, T); values at or below -100 count as 0.
        teacher_attentions: N teacher scores, same shapes.
        student_hidden: M + 1 student states, (B, T, D), of the teacher's width; the embedding first.
        teacher_hidden: N + 1 teacher states, (B, T, D).
        mask: Valid tokens, (B, T); None for all of them.

    Returns:
        Scalar; 0 where every layer finds its equal or no token is valid.

    Raises:
        ValueError: Where the numbers of layers or shapes do not fit.

    Example:
        >>> import torch
        >>> scores, states = [torch.zeros(1, 1, 2, 2)], [torch.ones(1, 2, 4)] * 2
        >>> emd_loss(scores, scores * 3, states, states[:1] + states[1:] * 3).item()
        0.0
    """
    hidden, attention = _costs(student_attentions, teacher_attentions, student_hidden, teacher_hidden, mask)
    loss = hidden_mse_loss(student_hidden[0], teacher_hidden[0], mask)
    for cost in (hidden, attention):
        rows, columns = (cost.new_full((n,), 1 / n) for n in cost.shape)
        loss = loss + (transport(cost.detach(), rows, columns) * cost).sum()
    return loss


def _costs(
    student_attentions: list[Tensor],
    teacher_attentions: list[Tensor],
    student_hidden: list[Tensor],
    teacher_hidden: list[Tensor],
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Costs of hidden states and of attentions, (M, N) each."""
    check_states("BERT-EMD", student_attentions, teacher_attentions, student_hidden, teacher_hidden)
    hidden = [[hidden_mse_loss(s, t, mask) for t in teacher_hidden[1:]] for s in student_hidden[1:]]
    attention = [[attention_mse_loss(s, t, mask) for t in teacher_attentions] for s in student_attentions]
    return (torch.stack([torch.stack(row) for row in hidden]), torch.stack([torch.stack(row) for row in attention]))


class EMDLoss(nn.Module):
    """:func:`emd_loss` with a projection to the teacher's width, and layer weights that follow the costs.

    After every step in training, a layer whose unit of flow was cheap weighs more in the next (the paper's cost
    attention): :math:`w_i = \\operatorname{softmax}_i(\\gamma_i / \\tau)`, :math:`\\gamma_i = \\sum_k c_k / c_i`,
    :math:`c_i` the cost of the flow of layer i divided by its weight.

    Args:
        attend: Let the weights follow the costs; False keeps all layers equal.
        temperature: The tau above: higher keeps the weights closer together. It is not one of logits.
    """

    def __init__(self, attend: bool = True, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, not {temperature}.")
        self.attend = attend
        self.temperature = temperature
        self.projection: nn.Module = nn.Identity()

    def build(
        self,
        student_attentions: list[Tensor],
        teacher_attentions: list[Tensor],
        student_hidden: list[Tensor],
        teacher_hidden: list[Tensor],
        mask: Tensor | None = None,
    ) -> None:
        """Create the projection and equal weights for the layers."""
        student, teacher = student_hidden[0], teacher_hidden[0]
        if student.shape[-1] != teacher.shape[-1]:
            self.projection = nn.Linear(student.shape[-1], teacher.shape[-1], device=student.device)
        for part in ("hidden", "attention"):
            for side, layers in (("student", student_attentions), ("teacher", teacher_attentions)):
                self.register_buffer(f"{part}_{side}", student.new_full((len(layers),), 1 / len(layers)).float())

    @full_precision
    def forward(
        self,
        student_attentions: list[Tensor],
        teacher_attentions: list[Tensor],
        student_hidden: list[Tensor],
        teacher_hidden: list[Tensor],
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`emd_loss`; the student's hidden states keep their own width."""
        states = [self.projection(state) for state in student_hidden]
        costs = _costs(student_attentions, teacher_attentions, states, teacher_hidden, mask)
        loss = hidden_mse_loss(states[0], teacher_hidden[0], mask)
        for part, cost in zip(("hidden", "attention"), costs, strict=True):
            student, teacher = getattr(self, f"{part}_student"), getattr(self, f"{part}_teacher")
            flow = transport(cost.detach(), student, teacher)
            loss = loss + (flow * cost).sum()
            if self.attend and self.training:
                moved = (flow * cost).detach()
                self._follow(student, moved.sum(1))
                self._follow(teacher, moved.sum(0))
        return loss

    def _follow(self, weights: Tensor, cost: Tensor) -> None:
        """New weights from what the flow of each layer has cost, in place."""
        unit = cost.to(weights) / weights.clamp(min=1e-6)
        # Where nothing costs, all are equal; a layer that costs nothing beside others would otherwise take all.
        unit = unit.clamp(min=1e-3 * float(unit.max()) + 1e-12)
        gamma = unit.sum() / unit
        weights.copy_((gamma / self.temperature).softmax(0).clamp(min=1e-6))
        weights /= weights.sum()
