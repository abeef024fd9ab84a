"""Schedules: a term's weight as a function of how far the training is."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far the training is.

    Attributes:
        fraction: 0 at the start, 1 at the end.
        epoch: Epochs done, counting from 0.
    """

    fraction: float = 0.0
    epoch: int = 0


class Constant:
    """The same value throughout."""

    def __init__(self, value: float) -> None:
        self.value = float(value)

    def __call__(self, progress: Progress) -> float:
        """The value."""
        return self.value


class LinearWarmup:
    """From 0 to ``value`` over the first epochs, epoch by epoch as DKD and ReviewKD do: value * min(epoch / epochs, 1).

    Args:
        epochs: Length of the warm-up.
        value: Value after it.
        first: Number of the first epoch: 0, in which the weight is 0 then, or 1, as some authors count.
    """

    def __init__(self, epochs: int, value: float = 1.0, first: int = 0) -> None:
        self.epochs = epochs
        self.value = value
        self.first = first

    def __call__(self, progress: Progress) -> float:
        """The weight in this epoch."""
        return self.value * min((progress.epoch + self.first) / max(self.epochs, 1), 1.0)


class Linear:
    """From ``start`` to ``end`` in a straight line over the training."""

    def __init__(self, start: float, end: float) -> None:
        self.start = start
        self.end = end

    def __call__(self, progress: Progress) -> float:
        """The weight at this point."""
        return self.start + (self.end - self.start) * progress.fraction


class Cosine:
    """From ``start`` to ``end`` along half a cosine over the training."""

    def __init__(self, start: float, end: float) -> None:
        self.start = start
        self.end = end

    def __call__(self, progress: Progress) -> float:
        """The weight at this point."""
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * progress.fraction))


class Window:
    """``value`` while ``begin`` <= fraction < ``end``, else 0."""

    def __init__(self, begin: float = 0.0, end: float = 1.0, value: float = 1.0) -> None:
        self.begin = begin
        self.end = end
        self.value = value

    def __call__(self, progress: Progress) -> float:
        """The weight at this point."""
        return self.value if self.begin <= progress.fraction < self.end or progress.fraction >= 1.0 == self.end else 0.0
