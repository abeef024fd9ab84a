"""Rates that torch has no scheduler for: a warm-up, then a fall over the rest of the run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Factor(ABC):
    """The share of its rate that an optimiser has after a number of steps of the schedule.

    Args:
        length: Steps of the schedule in the whole run.
        warmup: The first share of the run, over which the rate rises from 0 in a straight line.
        end: Share of the rate that is left at the end.

    Raises:
        ValueError: A share outside of [0, 1].
    """

    def __init__(self, length: int, warmup: float, end: float) -> None:
        for name, value in (("warmup", warmup), ("end", end)):
            if not 0 <= value <= 1:
                raise ValueError(f"scheduler.factory.{name}={value}: it is a share, from 0 to 1.")
        self.length, self.end = length, end
        self.first = round(warmup * length)

    def __call__(self, step: int) -> float:
        """The factor after ``step`` steps."""
        if step < self.first:
            return step / self.first
        done = min((step - self.first) / max(self.length - self.first, 1), 1.0)
        return self.end + (1 - self.end) * self.left(done)

    @abstractmethod
    def left(self, done: float) -> float:
        """What is left of the fall, 1 to 0, when a share of it is done."""


class LinearFactor(Factor):
    """Falls in a straight line."""

    def left(self, done: float) -> float:
        """A straight line."""
        return 1 - done


class CosineFactor(Factor):
    """Falls along half a cosine."""

    def left(self, done: float) -> float:
        """Half a cosine."""
        return 0.5 * (1 + math.cos(math.pi * done))


def linear(optimizer: Optimizer, length: int, warmup: float = 0.0, end: float = 0.0) -> LambdaLR:
    """Up from 0 over the first part of the run, then down in a straight line.

    Args:
        optimizer: Whose rates.
        length: Of the run, in epochs or steps of the optimiser.
        warmup: Share of the run over which the rate rises.
        end: Share of the rate that is left at the end.
    """
    return LambdaLR(optimizer, LinearFactor(length, warmup, end))


def warmup_cosine(optimizer: Optimizer, length: int, warmup: float = 0.05, end: float = 0.0) -> LambdaLR:
    """Up from 0 over the first part of the run, then down along half a cosine; arguments as :func:`linear` has them."""
    return LambdaLR(optimizer, CosineFactor(length, warmup, end))
