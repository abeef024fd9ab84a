"""Universal logit distillation across tokenizers (Boizard et al., 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision


def _answers(logits: Tensor, mask: Tensor, keep: Tensor, temperature: float) -> Tensor:
    """Descending probabilities, (N, V), of the first valid positions of each row, as many as ``keep`` (B, L) marks."""
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : keep.shape[1]]
    rows, columns = keep.nonzero(as_tuple=True)
    # Selected before the softmax and the sort: padding and prompt cost no memory.
    probabilities = F.softmax(logits[rows, order[rows, columns]] / temperature, dim=-1)
    return probabilities.sort(dim=-1, descending=True).values


@full_precision
def uld_loss(
    student: Tensor,
    teacher: Tensor,
    student_mask: Tensor,
    teacher_mask: Tensor,
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> Tensor:
    r"""Distance of the sorted next-token probabilities: it needs no common vocabulary.

    .. math:: \operatorname{mean}_b \operatorname{mean}_{i < n_b} \sum_v |p^s_{(v)} - p^t_{(v)}|

    The i-th valid position of the student meets the i-th of the teacher, up to the shorter answer; the smaller
    vocabulary is padded with zeros.

    References:
        [0] Boizard, El Haddad, Hudelot, Colombo. Towards Cross-Tokenizer Distillation: the Universal Logit
            Distillation Loss for LLMs. TMLR 2025.
        [1] Nicolas-BZRD/llm-recipes, models/distillation_model.py (DistillationLoss)

    Differs from [1]: takes masks that are already shifted with the logits instead of labels; the inputs are not
    overwritten; rows without a common position are left out of the mean over the batch; no cross-entropy inside.

    Args:
        student: Student logits, (B, T_s, V_s), already shifted.
        teacher: Teacher logits, (B, T_t, V_t), already shifted, of the same texts.
        student_mask: Positions that predict the answer, (B, T_s).
        teacher_mask: The same for the teacher's tokens, (B, T_t).
        student_temperature: Divides the student's logits; there is no T squared.
        teacher_temperature: Divides the teacher's logits.

    Returns:
        Scalar between 0 and 2; 0 where no row has a valid position on both sides.

    Raises:
        ValueError: Where batch sizes or masks do not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[[0.0, 200.0]]]), torch.tensor([[[200.0, 0.0, 0.0]]])
        >>> uld_loss(student, teacher, torch.ones(1, 1), torch.ones(1, 1)).item()
        0.0
    """
    for name, logits, mask in (("student", student, student_mask), ("teacher", teacher, teacher_mask)):
        if mask.shape != logits.shape[:2] or len(logits) != len(student):
            raise ValueError(
                f"{name}_mask {tuple(mask.shape)} must be the (B, T) of the {name} logits {tuple(logits.shape)}, with"
                f" the student's batch size {len(student)}."
            )
    student_mask, teacher_mask = student_mask.to(torch.bool), teacher_mask.to(torch.bool)
    size = torch.minimum(student_mask.sum(1), teacher_mask.sum(1))  # (B,)
    length = min(student.shape[1], teacher.shape[1])
    keep = torch.arange(length, device=student.device) < size[:, None]
    ours = _answers(student, student_mask, keep, student_temperature)
    theirs = _answers(teacher.detach(), teacher_mask, keep, teacher_temperature)
    width = max(ours.shape[1], theirs.shape[1])
    ours, theirs = (F.pad(p, (0, width - p.shape[1])) for p in (ours, theirs))
    distance = (ours - theirs).abs().sum(-1)  # (N,), row by row
    per_row = distance / size.repeat_interleave(size)
    return per_row.sum() / (size > 0).sum().clamp(min=1)


class ULDLoss(nn.Module):
    """Module form of :func:`uld_loss`."""

    def __init__(self, student_temperature: float = 1.0, teacher_temperature: float = 1.0) -> None:
        super().__init__()
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature

    def forward(self, student: Tensor, teacher: Tensor, student_mask: Tensor, teacher_mask: Tensor) -> Tensor:
        """See :func:`uld_loss`."""
        return uld_loss(
            student,
            teacher,
            student_mask,
            teacher_mask,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
        )
