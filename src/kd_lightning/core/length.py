"""How long a run is, in the unit that its schedule counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

# Arguments of schedulers that are how long they are.
LENGTHS = ("T_max", "total_iters", "total_steps", "length")
UNITS = ("epoch", "step")


def check_milestones(milestones: Sequence[int], length: int, interval: str) -> None:
    """Refuse milestones that never come.

    Args:
        milestones: When a schedule changes the rate.
        length: Of the run.
        interval: What both count.

    Raises:
        ValueError: With those that lie beyond.
    """
    late = [one for one in milestones if one >= length]
    if late and not (interval == "epoch" and length == 1):  # a single epoch has one rate whatever is set
        raise ValueError(
            f"scheduler.factory.milestones={list(milestones)}: the run ends after {length} {interval}s, so that"
            f" {', '.join(map(str, late))} never comes. Set smaller ones, a longer run, or another scheduler, such as"
            " scheduler=cosine."
        )


def length_of(trainer: Any, interval: str) -> int:
    """Epochs, or steps of the optimiser, that a training has at most.

    Args:
        trainer: Lightning's, with its data.
        interval: One of ``UNITS``.

    Raises:
        ValueError: Nothing ends it.
    """
    if interval == "epoch" and trainer.max_steps == -1 and trainer.max_epochs > 0:
        return int(trainer.max_epochs)
    steps: float = trainer.estimated_stepping_batches
    if not math.isfinite(steps) or steps < 1:
        raise ValueError(
            "This scheduler falls over the whole run, whose length is not known: set trainer.max_epochs or"
            " trainer.max_steps, or take scheduler=constant."
        )
    if interval == "step":
        return int(steps)
    trainer.fit_loop.setup_data()
    batches: float = trainer.num_training_batches
    if not math.isfinite(batches):
        raise ValueError("The data does not say how long an epoch is: set scheduler.interval=step.")
    together: int = trainer.accumulate_grad_batches
    return math.ceil(steps / math.ceil(batches / together))
