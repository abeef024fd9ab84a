"""One value."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.measures.ranks import correlation, ranks
from kd_lightning.tasks.base import Score


def regression_metrics(values: Tensor, target: Tensor) -> dict[str, float]:
    """Values (N, 1) beside targets (N,): `mse`, `pearson` and `spearman` (0 where one side is constant)."""
    value, target = values[:, 0].double(), target.double()
    return {
        "mse": float((value - target).square().mean()),
        "pearson": correlation(value, target),
        "spearman": correlation(ranks(value), ranks(target)),
    }


def value_agreement(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """Predicted values (N, 1) of both: `teacher_spearman` and `teacher_mse`."""
    a, b = student[:, 0].double(), teacher[:, 0].double()
    return {"teacher_spearman": correlation(ranks(a), ranks(b)), "teacher_mse": float((a - b).square().mean())}


SPEARMAN = Score("spearman", "Spearman correlation", "%", "points")
