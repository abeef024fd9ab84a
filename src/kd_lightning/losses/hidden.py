"""Distances of hidden states, token by token, projected to one width where needed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean

States = Tensor | list[Tensor]


def _check_states(student: Tensor, teacher: Tensor, mask: Tensor | None) -> None:
    """Refuse states (..., D) of different shapes or a mask that is not (...)."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"student states {tuple(student.shape)} and teacher states {tuple(teacher.shape)} must have the same shape."
            " The module forms project where only the widths differ; texts and tokenizer must be the same."
        )
    if mask is not None and mask.shape != student.shape[:-1]:
        raise ValueError(f"mask {tuple(mask.shape)} must be the positions of the states {tuple(student.shape)}.")


@full_precision
def hidden_mse_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean squared error of hidden states over valid tokens and their elements.

    .. math:: \operatorname{mean}_\text{tokens} \tfrac1D \sum_d (h^s_d - h^t_d)^2

    References:
        [0] Jiao et al. TinyBERT: Distilling BERT for Natural Language Understanding. Findings of EMNLP 2020 (its
            hidden-state term).
        [1] airaria/TextBrewer, src/textbrewer/losses.py (hid_mse_loss)

    Differs from [1]: 0 instead of nan where every token is masked.

    Args:
        student: Student states, (..., D), for example (B, T, D).
        teacher: Teacher states, same shape.
        mask: Valid tokens, (...); None for all of them.

    Returns:
        Scalar; 0 where the states agree or no token is valid.

    Raises:
        ValueError: Where shapes differ.

    Example:
        >>> import torch
        >>> hidden_mse_loss(torch.zeros(1, 2, 4), torch.tensor([[[2.0] * 4, [9.0] * 4]]), torch.tensor([[1, 0]])).item()
        4.0
    """
    _check_states(student, teacher, mask)
    return masked_mean(F.mse_loss(student, teacher.detach(), reduction="none").mean(-1), mask)


@full_precision
def hidden_cosine_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""One minus the cosine of hidden states, averaged over valid tokens.

    .. math:: \operatorname{mean}_\text{tokens} (1 - \cos(h^s, h^t))

    References:
        [0] Sanh, Debut, Chaumond, Wolf. DistilBERT, a distilled version of BERT. 2019 (its cosine term).
        [1] airaria/TextBrewer, src/textbrewer/losses.py (cos_loss)

    Differs from [1]: 0 instead of nan where every token is masked.

    Args:
        student: Student states, (..., D), for example (B, T, D).
        teacher: Teacher states, same shape.
        mask: Valid tokens, (...); None for all of them.

    Returns:
        Scalar between 0 and 2; 0 where the directions agree or no token is valid.

    Raises:
        ValueError: Where shapes differ.

    Example:
        >>> import torch
        >>> hidden_cosine_loss(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]])).item()
        1.0
    """
    _check_states(student, teacher, mask)
    return masked_mean(1 - F.cosine_similarity(student, teacher.detach(), dim=-1), mask)


class _HiddenLoss(nn.Module):
    """Sum over pairs of layers, with a linear projection of the student where the widths differ."""

    def __init__(self) -> None:
        super().__init__()
        self.projections = nn.ModuleList()

    def build(self, student: States, teacher: States, mask: Tensor | None = None) -> None:
        """Create one projection for each pair; the identity where the widths agree."""
        for s, t in self._pairs(student, teacher):
            same = s.shape[-1] == t.shape[-1]
            projection = nn.Identity() if same else nn.Linear(s.shape[-1], t.shape[-1], device=s.device)
            self.projections.append(projection)

    @staticmethod
    def _pairs(student: States, teacher: States) -> list[tuple[Tensor, Tensor]]:
        students, teachers = ([x] if isinstance(x, Tensor) else list(x) for x in (student, teacher))
        if len(students) != len(teachers):
            raise ValueError(f"{len(students)} student layers cannot be paired with {len(teachers)} teacher layers.")
        return list(zip(students, teachers, strict=True))

    def _distance(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError

    @full_precision
    def forward(self, student: States, teacher: States, mask: Tensor | None = None) -> Tensor:
        """Sum of the distances of all pairs."""
        pairs = self._pairs(student, teacher)
        projections = list(self.projections) or [nn.Identity()] * len(pairs)
        losses = [self._distance(p(s), t, mask) for p, (s, t) in zip(projections, pairs, strict=True)]
        return sum(losses[1:], losses[0])


class HiddenMSELoss(_HiddenLoss):
    """Module form of :func:`hidden_mse_loss`: one layer or equally long lists of layers."""

    def _distance(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        return hidden_mse_loss(student, teacher, mask)


class HiddenCosineLoss(_HiddenLoss):
    """Module form of :func:`hidden_cosine_loss`: one layer or equally long lists of layers."""

    def _distance(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        return hidden_cosine_loss(student, teacher, mask)
