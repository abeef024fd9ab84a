"""A study: an experiment whose trainings lie by content, found by any study and shared by several processes."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import OmegaConf

from kd_lightning.config.command import Command
from kd_lightning.config.schema import Config
from kd_lightning.experiment.experiment import Experiment, open_experiment
from kd_lightning.experiment.recipes import Recipe
from kd_lightning.experiment.settle import settle
from kd_lightning.experiment.workers import finished

log = logging.getLogger("kd_lightning")


def open_study(command: Command, recipes: list[Recipe]) -> Experiment:
    """Data, teacher and trainings: the same in every process."""
    return open_experiment(settle(command), recipes, Path(command.settings.study.folder))


def without_bars(command: Command) -> Command:
    """Bars of several processes overwrite each other."""
    return Command(OmegaConf.merge(command.raw, {"trainer": {"enable_progress_bar": False}}))  # type: ignore[arg-type]


def check_workers(settings: Config) -> None:
    """Refuse a number of processes that cannot be.

    Raises:
        ValueError: With what to set.
    """
    workers, strategy = settings.study.workers, settings.trainer.strategy
    if workers < 1:
        raise ValueError(f"study.workers={workers}: at least one process is needed.")
    if workers > 1 and str(strategy) in ("ddp", "ddp_spawn", "fsdp"):
        raise ValueError(
            f"study.workers={workers} with trainer.strategy={strategy}: either several trainings"
            " at once or several processes in one. Take trainer=gpu: each process uses a GPU of its own."
        )


def announce(experiment: Experiment) -> None:
    """Say what will be trained."""
    trainer, names = experiment.settled.settings.trainer, [recipe.name for recipe in experiment.recipes]
    done = sum(len(group) for group in finished(experiment).values())
    length = f"{trainer.max_epochs} epochs" if trainer.max_steps < 0 else f"{trainer.max_steps} steps"
    log.info(
        f"Plan: {len(names)} arms ({', '.join(names)}) x seeds {experiment.seeds}, {length} each:"
        f" {len(experiment.trainings)} trainings of {experiment.settled.settings.student.name}"
        + (f", {done} finished earlier" if done else "")
    )
