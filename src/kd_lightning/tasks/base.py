"""What a task is: the score that arms are judged by, and what else is measured of its answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from kd_lightning.measures import format as fmt


@dataclass(frozen=True)
class Score:
    """The measure that arms are tested in.

    Attributes:
        key: Its name among the metrics of an arm.
        name: What people call it, at the start of a line.
        unit: Of a value, in tables and on axes.
        gap_unit: Of a difference.
        scale: What a value is multiplied by to be in that unit.
        digits: Decimals of a value and of a difference.
        higher: Whether a larger value is the better one.
    """

    key: str
    name: str
    unit: str
    gap_unit: str
    scale: float = 100.0
    digits: int = 1
    higher: bool = True

    @property
    def sign(self) -> int:
        """1 where larger is better, else -1."""
        return 1 if self.higher else -1

    @property
    def label(self) -> str:
        """Name and unit, for axes."""
        name = self.name if self.name.isupper() else self.name[0].lower() + self.name[1:]
        return f"{name} ({self.unit})" if self.unit else name

    def value(self, value: float) -> str:
        """'97.2 %', '1.234 nats'."""
        return f"{self.scale * value:.{self.digits}f} {self.unit}".rstrip()

    def gap(self, value: float | None, digits: int | None = None) -> str:
        """A difference with its sign, without the unit: '+2.0'."""
        if value is None or math.isnan(value):
            return fmt.DASH
        return fmt.points(value * self.scale / 100, self.digits if digits is None else digits)

    def size(self, value: float, digits: int | None = None) -> str:
        """The size of a difference, without sign and unit."""
        return f"{self.scale * abs(value):.{self.digits if digits is None else digits}f}"

    def better(self, difference: float) -> bool:
        """Whether a difference is an improvement."""
        return self.sign * difference > 0


@dataclass(frozen=True)
class Task:
    """A kind of answer.

    Attributes:
        score: What arms are tested in.
        measures: Metrics of outputs (N, C) beside their targets (N,).
        agreement: Metrics of a student's outputs (N, C) beside the teacher's.
        classes: Whether answers are one of a few classes: then there are accuracies by class, mistakes, and samples
            won and lost.
        confidence: Whether outputs are logits whose softmax says how sure the network is.
        output: The signal that is the answer.
        rows: What is counted.
    """

    score: Score
    measures: Callable[[Tensor, Tensor], dict[str, float]]
    agreement: Callable[[Tensor, Tensor], dict[str, float]]
    classes: bool = False
    confidence: bool = False
    output: str = "logits"
    rows: str = "samples"
