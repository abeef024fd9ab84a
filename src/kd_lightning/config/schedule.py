"""A schedule of the learning rate that is as long as the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_lightning.config.schema import Scheduler, Trainer
from kd_lightning.core.length import check_milestones

# Arguments that the shipped schedules have the length of the run in.
_OF_RUN = ("T_max", "length")


def of_run(scheduler: Scheduler, trainer: Trainer) -> dict[str, Any]:
    """The factory of a scheduler, with a length that is the number of epochs left open.

    That is how ``T_max: ${trainer.max_epochs}`` says that it is the length of the run, which ends earlier under
    ``trainer.max_steps``, and counts in steps under ``scheduler.interval=step``.
    """
    factory: dict[str, Any] = scheduler.factory
    return {**factory, **{name: None for name in _OF_RUN if factory.get(name, ...) == trainer.max_epochs}}


def check_schedule(settings: Mapping[str, Any]) -> None:
    """Refuse milestones beyond the last epoch, where epochs end the run: the teacher need not be trained for that.

    Args:
        settings: The whole configuration, as plain values.

    Raises:
        ValueError: With those that never come.
    """
    scheduler, trainer = settings["scheduler"], settings["trainer"]
    milestones = (scheduler["factory"] or {}).get("milestones")
    if milestones and scheduler["interval"] == "epoch" and trainer["max_steps"] == -1 and trainer["max_epochs"] > 0:
        check_milestones(milestones, trainer["max_epochs"], "epoch")


def counted_anew(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler as it decides a result: a ``T_max`` that stood for epochs where epochs were not what ends the run.

    Such a rate swung; what was trained by it is not what the same settings give now.

    Args:
        settings: The whole configuration, as plain values.
    """
    scheduler, trainer = settings["scheduler"], settings["trainer"]
    factory = scheduler.get("factory")
    by_epochs = trainer["max_steps"] == -1 and scheduler.get("interval") == "epoch"
    if by_epochs or not isinstance(factory, Mapping) or factory.get("T_max", ...) != trainer["max_epochs"]:
        return dict(scheduler)
    return {**scheduler, "factory": {**factory, "T_max": None}}
