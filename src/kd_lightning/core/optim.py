"""Optimiser and scheduler from their configured factories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]


@dataclass
class Scheduler:
    """A learning-rate scheduler and when it steps.

    Attributes:
        factory: Optimizer -> scheduler.
        interval: ``epoch`` or ``step``.
        monitor: Metric that a plateau scheduler watches, or None.
    """

    factory: Callable[[Optimizer], LRScheduler]
    interval: str = "epoch"
    monitor: str | None = None


def configure(
    groups: list[dict[str, Any]], optimizer: OptimizerFactory, scheduler: Scheduler | None
) -> OptimizerLRScheduler:
    """Lightning's optimiser dictionary.

    Args:
        groups: Parameter groups; empty ones are dropped.
        optimizer: Groups -> optimiser.
        scheduler: Optional.
    """
    built = optimizer([group for group in groups if group["params"]])
    if scheduler is None:
        return built
    settings: LRSchedulerConfigType = {"scheduler": scheduler.factory(built), "interval": scheduler.interval}
    if scheduler.monitor is not None:
        settings["monitor"] = scheduler.monitor
    return {"optimizer": built, "lr_scheduler": settings}
