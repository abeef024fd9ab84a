"""A vector without a right answer: the teacher's is the measure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.measures.ranks import correlation, ranks
from kd_lightning.tasks.base import Score


def embedding_agreement(student: Tensor, teacher: Tensor, pairs: int = 20_000) -> dict[str, float]:
    """Embeddings (N, D) of both: do they point the same way, and do they find the same samples alike?

    Args:
        student: (N, D).
        teacher: (N, D); of another width only the order of the similarities is compared.
        pairs: So many pairs of samples are compared, the same ones every time.

    Returns:
        `cosine`, the mean cosine of a sample's two embeddings (nan where the widths differ), and `rank_correlation`,
        Spearman's, between the similarities of pairs of samples under the student and under the teacher.
    """
    a, b = F.normalize(student.double(), dim=1), F.normalize(teacher.double(), dim=1)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randint(len(a), (pairs,), generator=generator) for _ in range(2))
    first, second = first[first != second], second[first != second]
    alike = [(side[first] * side[second]).sum(1) for side in (a, b)]
    cosine = float((a * b).sum(1).mean()) if a.shape == b.shape else float("nan")
    return {"cosine": cosine, "rank_correlation": correlation(ranks(alike[0]), ranks(alike[1]))}


COSINE = Score("cosine", "Cosine with the teacher", "%", "points", digits=2)
