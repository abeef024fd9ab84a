"""The balance of what was transferred: which classes gain, which lose, and how even each arm is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from kd_lightning.comparison.results import Arm, Comparison
from kd_lightning.measures import format as fmt

MANY_CLASSES = 40
SHOWN_CLASSES = 15  # at either end, where there are more than MANY_CLASSES


@dataclass(frozen=True)
class ClassRow:
    """A class: its samples, the accuracy of every arm and the change of every contrast, as fractions."""

    position: int
    name: str
    support: int
    accuracy: list[float]
    change: list[float]


@dataclass(frozen=True)
class Balance:
    """How even an arm is over the classes: the worst one, and the deviation between the class accuracies."""

    worst: str
    accuracy: float
    dispersion: float


def class_rows(comparison: Comparison) -> tuple[list[ClassRow], int]:
    """The classes, the greatest gain of the judged arm first, and how many in the middle were left out.

    Without a contrast they keep their order. Classes without a test sample are left out too.
    """
    present = [i for i, count in enumerate(comparison.support.tolist()) if count]
    contrasts = [contrast.change for contrast in comparison.headlines if len(contrast.class_change)]
    if contrasts:
        present.sort(key=lambda i: -float(contrasts[0][i]))
    shown = present
    if len(present) > MANY_CLASSES:
        shown = present[:SHOWN_CLASSES] + present[-SHOWN_CLASSES:]
    rows = [
        ClassRow(
            position=i,
            name=fmt.clean(comparison.class_names[i], 40),
            support=int(comparison.support[i]),
            accuracy=[float(arm.class_mean[i]) for arm in comparison.arms],
            change=[float(c.change[i]) if len(c.class_change) else math.nan for c in comparison.contrasts],
        )
        for i in shown
    ]
    return rows, len(present) - len(shown)


def balance(comparison: Comparison, arm: Arm) -> Balance:
    """The worst class of an arm and the spread over its classes, from the means over seeds."""
    present = comparison.support > 0
    accuracy = torch.where(present, arm.class_mean, torch.full_like(arm.class_mean, math.inf))
    worst = int(accuracy.argmin())
    known = arm.class_mean[present]
    dispersion = float(known.std()) if len(known) > 1 else math.nan
    return Balance(fmt.clean(comparison.class_names[worst], 40), float(accuracy[worst]), dispersion)


def finding(comparison: Comparison) -> str:
    """Who gains and who loses, in one line: the title of the plot of the classes."""
    contrast = next((c for c in comparison.headlines if len(c.class_change)), None)
    if contrast is None:
        return "Accuracy per class"
    change = contrast.change
    up, down = int(change.nan_to_num(-math.inf).argmax()), int(change.nan_to_num(math.inf).argmin())
    names = [fmt.clean(name, 24) for name in comparison.class_names]
    gains, losses = float(change[up]) > 0, float(change[down]) < 0
    gain, loss = (f"{fmt.points(float(change[which]))} points" for which in (up, down))
    who = fmt.clean(contrast.name, 40)
    if gains and losses:
        return f"{who} helps class {names[up]} most ({gain}) and hurts class {names[down]} most ({loss})"
    if gains:
        return f"{who} helps class {names[up]} most: {gain}; no class loses"
    if losses:
        return f"{who} hurts class {names[down]} most: {loss}; no class gains"
    return f"{who} changes the accuracy of no class"
