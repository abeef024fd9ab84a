"""``job=pipeline``: frozen roles, student alone, distilled student; compared, reported, exported."""

from __future__ import annotations

import logging
from pathlib import Path

from kd_lightning.config.command import Command
from kd_lightning.core.ranks import is_main_process
from kd_lightning.deploy.export import export_student
from kd_lightning.deploy.trial import trial_export
from kd_lightning.experiment.experiment import Experiment, frozen_of, open_experiment, seeds_of
from kd_lightning.experiment.recipes import pipeline_recipes
from kd_lightning.experiment.selection import selection_remarks
from kd_lightning.experiment.settle import settle
from kd_lightning.files.artifact import Artifact
from kd_lightning.training.fit import fit

log = logging.getLogger("kd_lightning")


def run(command: Command, folder: Path) -> float:
    """The whole way; returns the distilled student's mean value of ``metrics.monitor`` on validation."""
    settled, recipes = settle(command), pipeline_recipes(command)
    if is_main_process():
        settled.data.save_split(folder)
    settings, seeds = settled.settings, seeds_of(settled)
    first = frozen_of(settled, recipes)
    trainings = len(first) + (settings.student.fit is not None) + len(recipes) * len(seeds)
    before = f"{', '.join(first)}, then " if first else ""
    log.info(f"Plan: {trainings} trainings ({before}student {settings.student.name} with seeds {seeds})")
    with trial_export(settled.under(seeds[0], recipes[-1].method), settled.data):
        experiment = open_experiment(settled, recipes, folder)
        artifacts = _train(experiment, folder)
    distilled = artifacts[recipes[-1].name]
    if not is_main_process():
        return _value(experiment, distilled)
    comparison = experiment.compare(artifacts, folder)
    comparison.remarks += selection_remarks(folder)
    student = experiment.choose(artifacts, folder)
    assert student is not None  # the one judged recipe was trained
    experiment.show(comparison, folder)
    export_student(student, experiment.settled, folder / "export")
    return _value(experiment, distilled)


def _train(experiment: Experiment, folder: Path) -> dict[str, list[Artifact]]:
    """Every training in its folder of the run."""
    artifacts: dict[str, list[Artifact]] = {}
    for recipe, training in experiment.trainings:
        place = folder / recipe.folder / f"seed_{training.settings.seed}"
        artifacts.setdefault(recipe.name, []).append(fit(training, place, trainings=len(experiment.seeds)))
    return artifacts


def _value(experiment: Experiment, distilled: list[Artifact]) -> float:
    """The mean on validation, larger is better; nan where it was not measured."""
    values = [float("nan") if one.score is None else one.score for one in distilled]
    return experiment.sign * sum(values) / len(values)
