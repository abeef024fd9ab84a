"""An experiment: recipes times seeds on one kind of data with one teacher; trained or found finished, compared."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from kd_lightning.comparison.results import Comparison
from kd_lightning.config.values import plain
from kd_lightning.data.base import SplitDataModule
from kd_lightning.experiment.compare import build_arm, build_comparison, build_teacher_arm
from kd_lightning.experiment.recipes import ALONE, Recipe, pairs
from kd_lightning.experiment.selection import select_training
from kd_lightning.experiment.settle import Settled
from kd_lightning.experiment.upstream import obtain_teacher, prepare_student
from kd_lightning.files.artifact import Artifact
from kd_lightning.files.runs import write_status
from kd_lightning.report.show import show
from kd_lightning.training.objective import needs_teacher
from kd_lightning.training.trainer import build_loggers
from kd_lightning.training.training import Training

log = logging.getLogger("kd_lightning")

Artifacts = Mapping[str, list[Artifact]]
"""Recipe's name -> what its trainings left, by seed."""


@dataclass(frozen=True)
class Experiment:
    """What is trained, and how it is judged.

    Attributes:
        settled: The configuration with its data.
        recipes: The arms.
        teacher: The teacher's net.
        teacher_artifact: What its training left, where it was trained here or before.
        chosen: The data with the samples that ``data.select`` keeps; None where it is the data itself.
    """

    settled: Settled
    recipes: list[Recipe]
    teacher: nn.Module
    teacher_artifact: Artifact | None = None
    chosen: SplitDataModule | None = None

    @property
    def seeds(self) -> list[int]:
        """Of the students."""
        return seeds_of(self.settled)

    @cached_property
    def trainings(self) -> list[tuple[Recipe, Training]]:
        """Every recipe under every seed; those of the first seed come first."""
        return [(recipe, self._training(recipe, seed)) for seed in self.seeds for recipe in self.recipes]

    def _training(self, recipe: Recipe, seed: int) -> Training:
        settings = self.settled.under(seed, recipe.method)
        data = self.settled.data if recipe.all_samples or self.chosen is None else self.chosen
        taught = needs_teacher(settings.method) if recipe.taught is None else recipe.taught
        label, kind = f"{recipe.name}, seed {seed}", "distilled" if taught else "alone"
        return Training(settings, data, self.teacher if taught else None, label, kind)

    def compare(self, artifacts: Artifacts, folder: Path) -> Comparison:
        """Teacher and students on the test split, each tested against what its recipe says."""
        log.info("Comparing on the test split ...")
        settings, data = self.settled.settings, self.settled.data
        arms = [build_teacher_arm(settings, folder, data, self.teacher, self.teacher_artifact)]
        arms += [build_arm(name, group[0].record["kind"], group, data, settings) for name, group in artifacts.items()]
        reference = ALONE if ALONE in artifacts else None
        return build_comparison(arms, data, settings, reference, pairs(self.recipes, list(artifacts)), self.teacher)

    def show(self, comparison: Comparison, folder: Path) -> None:
        """Print and write a comparison of this experiment."""
        settings = self.settled.settings
        show(comparison, folder, plain(settings), build_loggers(settings, folder, "compare", "compare"))

    @property
    def sign(self) -> float:
        """1 where a larger value of ``metrics.monitor`` is better, else -1."""
        return 1.0 if self.settled.settings.metrics.mode == "max" else -1.0

    def best(self, artifacts: Artifacts) -> tuple[Artifact | None, float | None]:
        """The best judged recipe on validation: its best seed, and its mean of ``metrics.monitor``.

        None where nothing was measured; with one judged recipe its first seed is the best then.
        """
        judged = {r.name: artifacts[r.name] for r in self.recipes if r.judged and r.name in artifacts}
        means = {name: mean for name, group in judged.items() if (mean := _mean(group)) is not None}
        if not means and len(judged) != 1:
            return None, None
        name = max(means, key=lambda one: self.sign * means[one]) if means else next(iter(judged))
        best = max(judged[name], key=lambda one: float("-inf") if one.score is None else self.sign * one.score)
        return best, means.get(name)

    def choose(self, artifacts: Artifacts, folder: Path) -> Artifact | None:
        """Note the best student in the run, so that ``job=export``, ``predict`` and ``evaluate`` take the folder."""
        student = self.best(artifacts)[0]
        if student is not None:
            write_status(folder, student=os.path.relpath(student.folder, folder))
        return student


def open_experiment(settled: Settled, recipes: list[Recipe], folder: Path) -> Experiment:
    """What must be there before a student is trained: the teacher, the student's body, the choice of the samples.

    Args:
        settled: The configuration with its data.
        recipes: The arms.
        folder: The choice of the samples is written there, and a pilot for it trained.
    """
    teacher, artifact = obtain_teacher(settled)
    settled, chosen = prepare_student(settled), None
    if settled.settings.data.get("select") is not None:
        chosen = settled.read_again() if any(recipe.all_samples for recipe in recipes) else settled.data
        select_training(settled, chosen, teacher, folder)
    return Experiment(settled, recipes, teacher, artifact, chosen)


def seeds_of(settled: Settled) -> list[int]:
    """The seeds that a command asks for."""
    settings = settled.settings
    return [settings.seed] if settings.seeds is None else list(settings.seeds)


def _mean(group: list[Artifact]) -> float | None:
    values = [one.score for one in group if one.score is not None]
    return sum(values) / len(values) if values else None
