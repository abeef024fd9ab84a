"""One value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from kd_lightning.measures.ranks import correlation, ranks
from kd_lightning.measures.score import Measure, Score
from kd_lightning.tasks.base import Answer, Task


class Regression(Task):
    """One value for every sample."""

    name = "regression"
    target = "values"
    supervised = "smooth_l1"
    unit = "values"
    metrics = "regression"
    score = Score("spearman", "Spearman correlation", "%", "points")
    columns = (
        Measure("spearman", "Spearman correlation", short=True),
        Measure("pearson", "Pearson correlation"),
        Measure("mse", "Mean squared error", "", 1, 3),
        Measure("teacher_spearman", "Spearman correlation with teacher", group="similarity"),
    )
    quality_name = "Spearman's correlation"
    alike_name = "Spearman's correlation with its values"
    head = "AutoModelForSequenceClassification"
    view = "value"
    verb = "Rate"
    card: ClassVar = {
        "images": ("image-feature-extraction", "A regression of images"),
        "features": ("tabular-regression", "A regression"),
        "text": ("text-classification", "A regression of texts"),
    }

    def measures(self, outputs: Tensor, target: Tensor) -> dict[str, float]:
        """``regression_metrics`` of values (N, 1)."""
        return regression_metrics(outputs, target)

    def agreement(self, student: Tensor, teacher: Tensor) -> dict[str, float]:
        """``teacher_spearman`` and ``teacher_mse`` of predicted values (N, 1)."""
        a, b = student[:, 0].double(), teacher[:, 0].double()
        return {"teacher_spearman": correlation(ranks(a), ranks(b)), "teacher_mse": float((a - b).square().mean())}

    def quality(self, outputs: Tensor, target: Tensor, exact: Tensor) -> float:
        """Spearman's correlation with the targets."""
        return regression_metrics(outputs, target)["spearman"]

    def alike(self, one: Tensor, other: Tensor) -> float:
        """Spearman's correlation of the two."""
        return self.agreement(one, other)["teacher_spearman"]

    def collapsed(self, outputs: Tensor, target: Tensor) -> bool:
        """Values that spread less than a hundredth of the targets."""
        return len(target) > 1 and float(outputs.double().std()) < 0.01 * float(target.double().std())

    def trivial(self, target: Tensor, width: int) -> float:
        """A constant, such as the mean, has no order at all."""
        return 0.0

    def say(self, outputs: Tensor, names: Sequence[str], top: int) -> list[Answer]:
        """``value``."""
        return [{"value": round(float(value), 6)} for value in outputs[:, 0]]


def regression_metrics(values: Tensor, target: Tensor) -> dict[str, float]:
    """Values (N, 1) beside targets (N,): `mse`, `pearson` and `spearman` (0 where one side is constant)."""
    value, target = values[:, 0].double(), target.double()
    return {
        "mse": float((value - target).square().mean()),
        "pearson": correlation(value, target),
        "spearman": correlation(ranks(value), ranks(target)),
    }
