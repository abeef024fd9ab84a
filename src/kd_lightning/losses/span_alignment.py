"""Distillation across tokenizers along the spans of text that both cut out (Minixhofer et al., 2025)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.spans import align
from kd_lightning.losses.uld import uld_loss

IGNORE = -100
Compare = Literal["chunks", "positions"]


def _chunk_log_probs(logits: Tensor, target: Tensor, chunk: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
    """Log-probability of each chunk's tokens, (B, chunks), and how many there are."""
    log_probs = -F.cross_entropy(logits.transpose(1, 2), target, reduction="none", ignore_index=IGNORE)
    inside = (chunk < logits.shape[1]) & (target != IGNORE)
    place = chunk.clamp(max=chunks)
    sums = log_probs.new_zeros(len(logits), chunks + 1).scatter_add(1, place, log_probs.masked_fill(~inside, 0))
    count = torch.zeros_like(sums).scatter_add(1, place, inside.to(sums.dtype))
    return sums[:, :chunks], count[:, :chunks]


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0."""
    near = x > -0.6931
    # Each branch sees only numbers that it can take, or the gradient of the other would be nan.
    a, b = x.masked_fill(~near, -0.5), x.masked_fill(near, -1.0)
    return torch.where(near, (-torch.expm1(a)).log(), torch.log1p(-b.exp()))


@full_precision
def span_alignment_loss(
    student: Tensor,
    teacher: Tensor,
    student_target: Tensor,
    teacher_target: Tensor,
    student_ends: Tensor,
    teacher_ends: Tensor,
    *,
    compare: Compare = "chunks",
    temperature: float = 100.0,
) -> Tensor:
    r"""Probabilities of the pieces of text between places where tokens of both tokenizers end.

    .. math:: \tau \operatorname{mean}_c\; \mathrm{KL}\bigl(\mathrm{Ber}(p_t(c)^{1/\tau}) \,\|\,
        \mathrm{Ber}(p_s(c)^{1/\tau})\bigr), \qquad \log p(c) = \sum_{i \in c} \log p(y_i \mid y_{<i})

    With ``compare="positions"`` instead the sorted next-token probabilities
    (:func:`~kd_lightning.losses.uld.uld_loss`) where both sides have read the same text, in place of the i-th token
    meeting the i-th.

    References:
        [0] Minixhofer, Vulić, Ponti. Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching. 2025.
        [1] bminixhofer/tokenkit (its alignment by text and binarised likelihoods)

    Differs from [1]: no correction for tokens that could go on past the end of a chunk; multiplied by the temperature,
    since the gradient shrinks with its inverse.

    Args:
        student: Student logits, (B, T_s, V_s), not shifted.
        teacher: Teacher logits, (B, T_t, V_t), of the same texts in its own tokens.
        student_target: The token that each position predicts, (B, T_s), -100 where it does not count.
        teacher_target: The same for the teacher, (B, T_t). The first token that counts must begin at the same
            character on both sides.
        student_ends: Character of the text after the last one of that token, (B, T_s); anything where it does not
            count.
        teacher_ends: The same for the teacher, (B, T_t).
        compare: ``chunks`` or ``positions``.
        temperature: The tau of ``chunks``; not one of logits. Large values weigh unlikely and likely pieces alike.

    Returns:
        Scalar; 0 where the sides agree on every chunk or no chunk is shared.

    Raises:
        ValueError: Where shapes differ or an option is unknown.

    Example:
        >>> import torch
        >>> logits, target, ends = torch.zeros(1, 2, 3), torch.tensor([[0, 1]]), torch.tensor([[2, 5]])
        >>> span_alignment_loss(logits, logits, target, target, ends, ends).item()
        0.0
    """
    _check(student, teacher, student_target, teacher_target, student_ends, teacher_ends, compare, temperature)
    valid = student_target != IGNORE, teacher_target != IGNORE
    ours = align(student_ends, teacher_ends, *valid)
    theirs = align(teacher_ends, student_ends, *reversed(valid))
    if compare == "positions":
        return uld_loss(student, teacher, ours.start, theirs.start)
    chunks = min(student.shape[1], teacher.shape[1])
    log_q, count = _chunk_log_probs(student, student_target, ours.chunk, chunks)
    log_p, _ = _chunk_log_probs(teacher.detach(), teacher_target, theirs.chunk, chunks)
    # A probability of 1 has no logarithm of its opposite.
    log_q, log_p = ((x / temperature).clamp(max=-1e-7) for x in (log_q, log_p))
    p = log_p.exp()
    divergence = p * (log_p - log_q) + (1 - p) * (_log1mexp(log_p) - _log1mexp(log_q))
    return temperature * masked_mean(divergence, count > 0)


def _check(
    student: Tensor,
    teacher: Tensor,
    student_target: Tensor,
    teacher_target: Tensor,
    student_ends: Tensor,
    teacher_ends: Tensor,
    compare: str,
    temperature: float,
) -> None:
    """Refuse what does not fit."""
    for name, logits, target, ends in (
        ("student", student, student_target, student_ends),
        ("teacher", teacher, teacher_target, teacher_ends),
    ):
        if target.shape != logits.shape[:2] or ends.shape != logits.shape[:2] or len(logits) != len(student):
            raise ValueError(
                f"{name}_target {tuple(target.shape)} and {name}_ends {tuple(ends.shape)} must be the (B, T) of the"
                f" {name} logits {tuple(logits.shape)}, with the student's batch size {len(student)}."
            )
    if compare not in ("chunks", "positions"):
        raise ValueError(f"compare={compare}: choose chunks or positions.")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}.")


class SpanAlignmentLoss(nn.Module):
    """Module form of :func:`span_alignment_loss`."""

    def __init__(self, compare: Compare = "chunks", temperature: float = 100.0) -> None:
        super().__init__()
        self.compare: Compare = compare
        self.temperature = temperature

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        student_target: Tensor,
        teacher_target: Tensor,
        student_ends: Tensor,
        teacher_ends: Tensor,
    ) -> Tensor:
        """See :func:`span_alignment_loss`."""
        return span_alignment_loss(
            student,
            teacher,
            student_target,
            teacher_target,
            student_ends,
            teacher_ends,
            compare=self.compare,
            temperature=self.temperature,
        )
