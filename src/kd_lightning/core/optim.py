"""Optimiser and scheduler from their configured factories."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kd_lightning.core.length import LENGTHS, UNITS, check_milestones, length_of
from kd_lightning.core.speed import OptimizerFactory, fused

log = logging.getLogger("kd_lightning")


@dataclass
class Scheduler:
    """A learning-rate scheduler and when it steps.

    Attributes:
        factory: Optimizer -> scheduler. What a partial binds to None, of the arguments that are how long a schedule is
            (``T_max``, ``total_iters``, ``total_steps``, ``length``), is the length of the run.
        interval: ``epoch`` or ``step``: what it counts.
        monitor: Metric that a plateau scheduler watches, or None.
    """

    factory: Callable[[Optimizer], LRScheduler]
    interval: str = "epoch"
    monitor: str | None = None

    def over(self, trainer: pl.Trainer | None) -> Callable[[Optimizer], LRScheduler]:
        """The factory for the length of this run.

        Raises:
            ValueError: The length is not known, or milestones lie beyond it.
        """
        if self.interval not in UNITS:
            raise ValueError(f"scheduler.interval={self.interval}: choose epoch or step.")
        if not isinstance(self.factory, functools.partial):
            return self.factory
        given = self.factory.keywords
        open_ones = [name for name in LENGTHS if name in given and given[name] is None]
        if not open_ones and "milestones" not in given and "T_max" not in given:
            return self.factory
        if trainer is None:  # it is only to be built
            return functools.partial(self.factory, **dict.fromkeys(open_ones, 1))
        length = length_of(trainer, self.interval)
        self._check(given, length)
        return functools.partial(self.factory, **dict.fromkeys(open_ones, length))

    def _check(self, given: dict[str, Any], length: int) -> None:
        """Refuse milestones that never come; say where a cosine rises again."""
        check_milestones(given.get("milestones") or (), length, self.interval)
        if given.get("T_max") is not None and given["T_max"] < length:
            log.warning(
                f"scheduler.factory.T_max={given['T_max']}: the rate rises again after that, as the run has {length}"
                f" {self.interval}s. With scheduler.factory.T_max=null it falls over the whole run."
            )


def configure(
    groups: list[dict[str, Any]],
    optimizer: OptimizerFactory,
    scheduler: Scheduler | None,
    trainer: pl.Trainer | None = None,
) -> OptimizerLRScheduler:
    """Lightning's optimiser dictionary.

    Args:
        groups: Parameter groups; empty ones are dropped.
        optimizer: Groups -> optimiser.
        scheduler: Optional.
        trainer: Whose length the schedule has; None outside of a training.
    """
    # Lightning refuses to clip the gradients of a fused optimiser under mixed precision.
    clipped = trainer is not None and trainer.gradient_clip_val
    factory = optimizer if clipped else fused(optimizer)
    built = factory([group for group in groups if group["params"]])
    if scheduler is None:
        return built
    made = scheduler.over(trainer)(built)
    settings: LRSchedulerConfigType = {"scheduler": made, "interval": scheduler.interval}
    if scheduler.monitor is not None:
        settings["monitor"] = scheduler.monitor
    return {"optimizer": built, "lr_scheduler": settings}
