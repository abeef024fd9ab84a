"""A vector without a right answer: the teacher's is the measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.measures.ranks import correlation, ranks
from kd_lightning.measures.score import Measure, Score
from kd_lightning.tasks.base import Answer, Task


class Embedding(Task):
    """A vector for every sample."""

    name = "embedding"
    target = "nothing"
    output = "sentence_embedding"
    width = None
    unit = "numbers"
    metrics = "embedding"
    supervised = None
    score = Score("cosine", "Cosine with the teacher", "%", "points", digits=2)
    columns = (
        Measure("cosine", "Cosine with teacher", short=True),
        Measure("rank_correlation", "Rank correlation with teacher", "", 1, 3, group="similarity"),
    )
    quality_name = "cosine with PyTorch"
    alike_name = "cosine with its embeddings"
    head = "AutoModel"
    view = "embedding"
    verb = "Embed"
    card: ClassVar = {"text": ("sentence-similarity", "An encoder of sentences")}

    def measures(self, outputs: Tensor, target: Tensor) -> dict[str, float]:
        """Nothing: by itself an embedding is neither right nor wrong."""
        return {}

    def agreement(self, student: Tensor, teacher: Tensor) -> dict[str, float]:
        """``cosine`` and ``rank_correlation``; see ``embedding_agreement``."""
        return embedding_agreement(student, teacher)

    def quality(self, outputs: Tensor, target: Tensor, exact: Tensor) -> float:
        """Mean cosine with PyTorch's embeddings."""
        return self.alike(outputs, exact)

    def alike(self, one: Tensor, other: Tensor) -> float:
        """Mean cosine of the two embeddings of a sample."""
        return embedding_agreement(one, other)["cosine"]

    def say(self, outputs: Tensor, names: Sequence[str], top: int) -> list[Answer]:
        """``embedding``: the vector."""
        return [{"embedding": [round(x, 6) for x in row]} for row in outputs.tolist()]


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
