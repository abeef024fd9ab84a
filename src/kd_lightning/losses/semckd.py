"""Cross-layer distillation with semantic calibration (Chen et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, match_spatial
from kd_lightning.losses.ops.layers import check_built, to_like
from kd_lightning.losses.ops.maps import as_map
from kd_lightning.losses.ops.norm import BatchNorm


@full_precision
def semckd_loss(student: Sequence[Sequence[Tensor]], teacher: Sequence[Sequence[Tensor]], attention: Tensor) -> Tensor:
    r"""Squared errors of every student layer to every teacher layer, weighted by attention for each sample.

    .. math:: \frac{1}{B S} \sum_b \sum_{i \le S} \sum_{j \le T} w_{bij}
        \operatorname{mean}_{chw} (r_{ij}(F^s_i) - F^t_j)^2

    References:
        [0] Chen, Mei, Zhang, Wang, Feng, Chen. Cross-Layer Distillation with Semantic Calibration. AAAI 2021.
        [1] DefangChen/SimKD, distiller_zoo/SemCKD.py and models/util.py (SelfA)

    Differs from [1]: the teacher is detached inside.

    Args:
        student: ``student[i][j]``: student layer i projected for teacher layer j, (B, C_j, H_ij, W_ij).
        teacher: ``teacher[i][j]``: teacher layer j at the same size.
        attention: Weights w, (B, S, T); each row over T sums to 1.

    Returns:
        Scalar.

    Example:
        >>> import torch
        >>> semckd_loss([[torch.zeros(2, 1, 2, 2)]], [[torch.ones(2, 1, 2, 2)]], torch.ones(2, 1, 1)).item()
        1.0
    """
    errors = [
        torch.stack([(s - t.detach()).square().flatten(1).mean(1) for s, t in zip(row_s, row_t, strict=True)], 1)
        for row_s, row_t in zip(student, teacher, strict=True)
    ]
    return (attention * torch.stack(errors, 1)).sum() / (attention.shape[0] * attention.shape[1])


class Embedding(nn.Module):
    """Two-layer perceptron with an L2-normalised output: rows (B, N) of a Gram matrix to (B, D)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, 2 * out)
        self.linear2 = nn.Linear(2 * out, out)

    def forward(self, rows: Tensor) -> Tensor:
        """Unit vectors (B, D)."""
        return F.normalize(self.linear2(F.relu(self.linear1(rows))), dim=1)


def _regressor(inputs: int, outputs: int) -> nn.Sequential:
    """The projector between two layers: 1x1, 3x3 and 1x1 convolutions over twice the teacher's channels."""
    middle = 2 * outputs
    return nn.Sequential(
        nn.Conv2d(inputs, middle, 1, bias=False),
        BatchNorm(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        BatchNorm(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, outputs, 1, bias=False),
    )


class SemCKDLoss(nn.Module):
    """Module form of :func:`semckd_loss` with its attention and projectors.

    Queries and keys are read from the rows of each layer's Gram matrix over the batch, so the width of their
    perceptrons is a batch size. Differs from [1], which skips every batch of another size: a smaller batch (the last of
    an epoch) has its rows padded with zeros, as if the absent samples had no similarity to the present ones; a larger
    one is attended in parts of ``batch_size``. At the exact size the values are those of [1]. The order of the samples
    matters, as in [1].

    Args:
        batch_size: Samples per step, on one device, that queries and keys are made for; at least ``factor``.
        temperature: Divides the attention scores; larger spreads each student layer over more teacher layers.
        factor: Width of queries and keys is ``batch_size // factor``.
    """

    def __init__(self, batch_size: int = 64, temperature: float = 1.0, factor: int = 4) -> None:
        super().__init__()
        if batch_size < factor:
            raise ValueError(f"batch_size {batch_size} is below factor {factor}: queries and keys would be empty.")
        self.batch_size = batch_size
        self.temperature = temperature
        self.factor = factor
        self.queries, self.keys, self.regressors = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()

    def build(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
        """Create queries, keys and a projector for every pair of layers."""
        left, right = [as_map(s) for s in student], [as_map(t) for t in teacher]
        width = self.batch_size
        self.queries = nn.ModuleList(Embedding(width, width // self.factor) for _ in left)
        self.keys = nn.ModuleList(Embedding(width, width // self.factor) for _ in right)
        # One after the other: student layer 0 for each teacher layer, student layer 1 for each teacher layer, ...
        self.regressors = nn.ModuleList(_regressor(s.shape[1], t.shape[1]) for s in left for t in right)
        to_like(self, left[0])

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """See :func:`semckd_loss`.

        Args:
            student: Maps (B, C, H, W) of the student's layers, or tokens of a vision transformer.
            teacher: Maps of the teacher's layers; in each pair the larger map is average-pooled.
        """
        left, right = [as_map(s) for s in student], [as_map(t).detach() for t in teacher]
        check_built(self.regressors, len(left) * len(right))
        projected: list[list[Tensor]] = []
        targets: list[list[Tensor]] = []
        regressors = iter(self.regressors)
        for source in left:
            pairs = [match_spatial(source, target) for target in right]
            projected.append([next(regressors)(s) for s, _ in pairs])
            targets.append([t for _, t in pairs])
        return semckd_loss(projected, targets, self.attention(left, right))

    @full_precision
    def attention(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Weights (B, S, T) of the teacher's layers for each student layer and sample."""
        query = torch.stack([self._embed(e, x) for e, x in zip(self.queries, student, strict=True)], 1)
        key = torch.stack([self._embed(e, x) for e, x in zip(self.keys, teacher, strict=True)], 2)
        return (torch.bmm(query, key) / self.temperature).softmax(-1)

    def _embed(self, embedding: nn.Module, features: Tensor) -> Tensor:
        """Embedded rows of the Gram matrix (B, B) over parts of the batch, padded to ``batch_size`` columns."""
        rows_of = features.flatten(1)
        parts = [rows_of[i : i + self.batch_size] for i in range(0, len(rows_of), self.batch_size)]
        rows = [F.pad(part @ part.T, (0, self.batch_size - len(part))) for part in parts]
        return embedding(torch.cat(rows))  # type: ignore[no-any-return]
