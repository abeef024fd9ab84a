"""Divergence from a teacher of which only the most probable entries are kept."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.tokens import FLOOR, token_mean

Missing = Literal["zero", "tail"]


def _check_missing(missing: str) -> None:
    if missing not in get_args(Missing):
        raise ValueError(f"missing must be one of {get_args(Missing)}, not '{missing}'.")


@full_precision
def sparse_kl_loss(
    student: Tensor,
    teacher_indices: Tensor,
    teacher_log_probs: Tensor,
    mask: Tensor | None = None,
    *,
    missing: Missing = "tail",
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
) -> Tensor:
    r"""Forward KL to the teacher's top k entries, without a dense teacher tensor.

    .. math:: T^2 \cdot \operatorname{mean}_\text{tokens} \sum_{v \in \text{top-}k} p_t \log \frac{p_t}{p_s}
        \;\left[ + \; r_t \log \frac{r_t}{r_s} \right]

    ``missing="zero"``: the teacher gives the other entries no mass; its k probabilities are normalised over k.
    ``missing="tail"``: the other entries are one bucket that holds the rest r of both sides, so that the mass the
    teacher spends there is not forced onto the top k. With k = V both are the dense forward KL.

    At T other than 1 the kept probabilities are raised to 1/T and normalised; the tail's mass is raised as one
    bucket, an approximation.

    References:
        [0] Anshumann et al. Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs. ACL 2025 (on what each
            treatment of the missing mass does).
        [1] arcee-ai/DistillKit, distillkit/lossfuncs/kl.py (missing ZERO and SYMMETRIC_UNIFORM)

    Differs from [1]: the student's tail is a sum over the other entries instead of one minus the kept ones, exact
    where the student has nearly all its mass in the top k, at the price of one tensor of the logits' size; 0 instead
    of nan where every position is masked.

    Args:
        student: Student logits, (..., V), already shifted for causal models.
        teacher_indices: Vocabulary entries of the teacher's top k, (..., k) int64, without repetition.
        teacher_log_probs: Their log-probabilities at temperature 1, (..., k).
        mask: Valid positions, (...); None for all of them.
        missing: What the teacher thinks of the entries that were not kept.
        temperature: Softening T of both.
        scale_by_temperature: Multiply by the temperature squared.

    Returns:
        Scalar; 0 where no position is valid.

    Raises:
        ValueError: Where shapes do not fit or ``missing`` is unknown.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[0.5, 0.3, 0.2]]).log()
        >>> round(abs(sparse_kl_loss(teacher, torch.tensor([[0, 1]]), teacher[:, :2], missing="tail").item()), 4)
        0.0
    """
    _check_missing(missing)
    if teacher_indices.shape != teacher_log_probs.shape or teacher_indices.shape[:-1] != student.shape[:-1]:
        raise ValueError(
            f"teacher_indices {tuple(teacher_indices.shape)} and teacher_log_probs {tuple(teacher_log_probs.shape)}"
            f" must both be (..., k) at the positions of the student's logits {tuple(student.shape)}."
        )
    logits = (student / temperature).masked_fill(student.detach().isneginf(), FLOOR)
    log_total = logits.logsumexp(-1, keepdim=True)
    log_student = logits.gather(-1, teacher_indices) - log_total
    log_kept = teacher_log_probs.detach().clamp(min=FLOOR)
    log_teacher = log_kept / temperature
    if missing == "tail":
        log_rest = torch.log1p(-log_kept.exp().sum(-1, keepdim=True).clamp(max=1)).clamp(min=FLOOR)
        log_teacher = torch.cat([log_teacher, log_rest / temperature], dim=-1)
        others = logits.scatter(-1, teacher_indices, FLOOR).logsumexp(-1, keepdim=True)
        log_student = torch.cat([log_student, others - log_total], dim=-1)
    # Entries at -inf in the student are outside the vocabulary, so is the tail where every entry is kept.
    log_teacher = log_teacher.masked_fill(log_student.detach() < FLOOR / 2, FLOOR).log_softmax(-1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
    return token_mean(divergence, mask, temperature, scale_by_temperature)


class SparseKLLoss(nn.Module):
    """Module form of :func:`sparse_kl_loss`."""

    def __init__(self, missing: Missing = "tail", temperature: float = 1.0, scale_by_temperature: bool = True) -> None:
        super().__init__()
        _check_missing(missing)
        self.missing: Missing = missing
        self.temperature = temperature
        self.scale_by_temperature = scale_by_temperature

    def forward(
        self, student: Tensor, teacher_indices: Tensor, teacher_log_probs: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`sparse_kl_loss`."""
        return sparse_kl_loss(
            student,
            teacher_indices,
            teacher_log_probs,
            mask,
            missing=self.missing,
            temperature=self.temperature,
            scale_by_temperature=self.scale_by_temperature,
        )
