"""One of a few classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kd_lightning.measures.classes import class_agreement, classification_metrics, reordered
from kd_lightning.measures.score import Measure, Score
from kd_lightning.tasks.base import Answer, Task

TOP1 = Score("top1", "Top-1", "%", "points")
LIKENESS = (
    Measure("agreement", "Agreement with teacher", group="similarity"),
    Measure("kl", "KL from teacher", "nats", 1, 3, group="similarity"),
    Measure("rank_correlation", "Rank correlation with teacher", "", 1, 3, group="similarity"),
)
CALIBRATION = (
    Measure("ece", "ECE", short=True, group="calibration"),
    Measure("temperature", "Temperature", "", 1, group="calibration"),
    Measure("ece_calibrated", "ECE, scaled", group="calibration"),
    Measure("nll_calibrated", "NLL, scaled", "nats", 1, 3, group="calibration"),
)
NLL = Measure("nll", "NLL", "nats", 1, 3, short=True)


class Distribution(Task):
    """Logits, a distribution over classes or tokens for every row: what holds whichever of the two they are."""

    confidence = True

    def agreement(self, student: Tensor, teacher: Tensor) -> dict[str, float]:
        """``agreement`` (share of equal first answers), ``kl`` and ``rank_correlation``; see ``class_agreement``."""
        return class_agreement(student, teacher)

    def quality(self, outputs: Tensor, target: Tensor, exact: Tensor) -> float:
        """Share of right answers among the rows that have a target."""
        known = target >= 0
        return share(outputs.argmax(1)[known] == target[known])

    def alike(self, one: Tensor, other: Tensor) -> float:
        """Share of rows with the same first answer."""
        return share(one.argmax(1) == other.argmax(1))

    def collapsed(self, outputs: Tensor, target: Tensor) -> bool:
        """One first answer for all rows, of several classes."""
        return len(torch.bincount(target).nonzero()) > 1 and len(torch.bincount(outputs.argmax(1)).nonzero()) == 1


class Classification(Distribution):
    """One of C classes for every sample."""

    name = "classification"
    target = "classes"
    metrics = "classification"
    score = TOP1
    columns = (
        Measure("top1", "Top-1", short=True),
        Measure("top5", "Top-5"),
        Measure("macro_f1", "Macro F1"),
        NLL,
        *CALIBRATION,
        *LIKENESS,
    )
    classes = True
    quality_name = "accuracy"
    alike_name = "share of the samples with the same class"
    head = "AutoModelForSequenceClassification"
    view = "classes"
    verb = "Classify"
    card: ClassVar = {
        "images": ("image-classification", "An image classifier"),
        "features": ("tabular-classification", "A classifier"),
        "text": ("text-classification", "A text classifier"),
    }

    def measures(self, outputs: Tensor, target: Tensor) -> dict[str, float]:
        """``classification_metrics`` of logits (N, C)."""
        return classification_metrics(outputs, target, outputs.shape[1])

    def right(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Whose first answer is the class: McNemar's test is about them."""
        return outputs.argmax(1) == target

    def trivial(self, target: Tensor, width: int) -> float:
        """The share of the most frequent class."""
        return int(torch.bincount(target).max()) / len(target)

    def misordered(self, outputs: Tensor, target: Tensor, names: Sequence[str]) -> str | None:
        """Named where another order of its classes fits the targets far better; see ``reordered``."""
        order = reordered(outputs, target)
        if order is None:
            return None
        right = (share(outputs.argmax(1) == target), share(outputs.argmax(1) == torch.tensor(order)[target]))
        moved = [f"'{names[c]}' is answered by output {o}" for c, o in enumerate(order) if c != o]
        more = "" if len(moved) <= 3 else f", and {len(moved) - 3} more"
        return (
            f"has its classes in another order than the data. As they stand, {100 * right[0]:.1f} % of the"
            f" answers are right, reordered {100 * right[1]:.1f} %: {', '.join(moved[:3])}{more}. Order its head as the"
            " data's classes are, or name the classes of the data in its order."
        )

    def say(self, outputs: Tensor, names: Sequence[str], top: int) -> list[Answer]:
        """``classes``: the most probable ones, best first."""
        return [{"classes": classes} for classes in top_classes(outputs, names, top)]


def share(rows: Tensor) -> float:
    """Of rows (N,) bool, how many are true."""
    return float(rows.double().mean())


def top_classes(logits: Tensor, names: Sequence[str], top: int) -> list[list[Answer]]:
    """The ``top`` most probable classes of each row of logits (B, C), best first.

    Raises:
        ValueError: ``top`` is not positive.
    """
    if top < 1:
        raise ValueError(f"At least one class must be named, not {top}.")
    best = logits.float().softmax(1).topk(min(top, logits.shape[1]))
    return [
        [{"class": names[i], "probability": round(p, 6)} for p, i in zip(*row, strict=True)]
        for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
