"""An experiment: recipes times seeds on one kind of data with the same teachers; trained or found, compared."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kd_lightning.comparison.results import Comparison
from kd_lightning.config.roles import TEACHER, frozen, with_roles
from kd_lightning.config.schema import Config
from kd_lightning.config.values import plain
from kd_lightning.data.base import SplitDataModule
from kd_lightning.experiment.compare import build_arm, build_comparison, build_role_arm
from kd_lightning.experiment.recipes import ALONE, Recipe, pairs
from kd_lightning.experiment.rehearsal import rehearse_all
from kd_lightning.experiment.selection import select_training
from kd_lightning.experiment.settle import Settled
from kd_lightning.experiment.source import Source
from kd_lightning.experiment.upstream import check_asked, nets, obtain_roles, prepare_student
from kd_lightning.files.artifact import Artifact, Part
from kd_lightning.files.runs import write_status
from kd_lightning.report.show import show
from kd_lightning.training.objective import asked_roles
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
        sources: The frozen roles of its trainings; first the one that agreement is measured with.
        chosen: The data with the samples that ``data.select`` keeps; None where it is the data itself.
    """

    settled: Settled
    recipes: list[Recipe]
    sources: dict[str, Source]
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
        asked = _asked(settings, recipe)
        theirs = nets({name: source for name, source in self.sources.items() if name in asked})
        label, kind = f"{recipe.name}, seed {seed}", Part.DISTILLED if asked else Part.ALONE
        return Training(with_roles(settings, asked), data, theirs, label, kind)

    @property
    def first(self) -> Source | None:
        """The frozen role that agreement is measured with."""
        return next(iter(self.sources.values()), None)

    def compare(self, artifacts: Artifacts, folder: Path) -> Comparison:
        """Frozen roles and students on the test split, each tested against what its recipe says."""
        log.info("Comparing on the test split ...")
        settings, data = self.settled.settings, self.settled.data
        arms = [build_role_arm(settings, folder, data, source) for source in self.sources.values()]
        arms += [build_arm(name, group, data, settings) for name, group in artifacts.items()]
        reference = ALONE if ALONE in artifacts else None
        return build_comparison(arms, data, settings, reference, pairs(self.recipes, list(artifacts)), self.first)

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
    """What must be there before a student is trained: frozen roles, the student's body, the choice of the samples.

    Args:
        settled: The configuration with its data.
        recipes: The arms.
        folder: The choice of the samples is written there, and a pilot for it trained.
    """
    names = frozen_of(settled, recipes)
    sources = obtain_roles(settled, names, given=rehearse_all(settled, names, _arms(settled, recipes)))
    settled, chosen = prepare_student(settled), None
    if settled.settings.data.get("select") is not None:
        chosen = settled.read_again() if any(recipe.all_samples for recipe in recipes) else settled.data
        select_training(settled, chosen, next(iter(sources.values())), folder)
    return Experiment(settled, recipes, sources, chosen)


def _arms(settled: Settled, recipes: list[Recipe]) -> dict[str, Config]:
    """A training of each recipe, with the further roles that it has."""
    found = {}
    for recipe in recipes:
        settings = settled.under(seeds_of(settled)[0], recipe.method)
        found[recipe.name] = with_roles(settings, _asked(settings, recipe))
    return found


def _asked(settings: Config, recipe: Recipe) -> tuple[str, ...]:
    """Roles that a training of a recipe has beside its learner."""
    if recipe.taught is False:
        return ()
    return asked_roles(settings) or ((TEACHER,) if recipe.taught else ())


def frozen_of(settled: Settled, recipes: list[Recipe]) -> list[str]:
    """The frozen roles that these recipes need, in the order of the table.

    Raises:
        ValueError: A further role that none of them asks.
    """
    settings = settled.settings
    asked = [name for one in recipes for name in _asked(settled.under(settings.seed, one.method), one)]
    check_asked(settings, asked)
    return first_roles(settings, asked, settings.data.get("select") is not None)


def first_roles(settings: Config, asked: Collection[str], selects: bool) -> list[str]:
    """Roles of a command in the order of the table: those that are asked; the teacher where none is, or samples are
    chosen by one and no frozen role is asked."""
    names = [name for name in frozen(settings) if name in asked]
    return names or ([TEACHER] if selects or not asked else [])


def seeds_of(settled: Settled) -> list[int]:
    """The seeds that a command asks for."""
    settings = settled.settings
    return [settings.seed] if settings.seeds is None else list(settings.seeds)


def _mean(group: list[Artifact]) -> float | None:
    values = [one.score for one in group if one.score is not None]
    return sum(values) / len(values) if values else None
