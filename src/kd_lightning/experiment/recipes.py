"""Recipes: how the students of an experiment are trained, their seeds left open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from kd_lightning.config.check import check_targets
from kd_lightning.config.choices import published
from kd_lightning.config.command import Command
from kd_lightning.experiment.settle import decided

ALONE = "student alone"
PLAIN_KD = "kd"


@dataclass(frozen=True)
class Recipe:
    """One arm before it is trained.

    Attributes:
        name: What the tables call it.
        method: The method as it was composed; its interpolations are resolved with the seed.
        folder: Name of its folder in a run.
        taught: Whether it learns from the teacher; None: where its method takes anything from one.
        judged: Whether it is one of the methods that the experiment is about; else a control.
        against: Names of the recipes that it is tested against, the one that titles speak of first.
        all_samples: Whether it learns from all training samples, also where ``data.select`` chooses some.
    """

    name: str
    method: dict[str, Any]
    folder: str = ""
    taught: bool | None = None
    judged: bool = True
    against: tuple[str, ...] = (ALONE,)
    all_samples: bool = False


def pipeline_recipes(command: Command) -> list[Recipe]:
    """The student alone, the distilled one, and where ``data.select`` chooses its samples, one that gets them all."""
    raw = decided(command).raw
    name, found = f"student + {raw.method.name}", []
    if raw.baseline is not None:
        found.append(
            Recipe(ALONE, _composed(raw.baseline), "alone", taught=False, judged=False, against=(), all_samples=True)
        )
    method = _composed(raw.method)
    if raw.data.get("select") is None:
        return [*found, Recipe(name, method, raw.method.name, taught=True)]
    every = Recipe(f"{name}, all samples", method, f"{raw.method.name}_all", True, judged=False, all_samples=True)
    return [*found, every, Recipe(name, method, raw.method.name, taught=True, against=(ALONE, every.name))]


def study_recipes(command: Command) -> list[Recipe]:
    """The student alone, the controls, and the methods that are judged.

    The chosen ``method`` is taken as it stands in the configuration, with what an experiment or the command line set
    for it; the others as they are published.

    Raises:
        ValueError: Where there is no baseline, or a method cannot be built.
    """
    raw = decided(command).raw
    study = raw.study
    if raw.baseline is None:
        raise ValueError("job=study needs the student alone to compare with: leave baseline as it is.")
    judged = [raw.method.name] if study.methods is None else list(study.methods)
    names = [n for n in dict.fromkeys([*study.controls, *judged]) if n != raw.baseline.name]
    nodes = [raw.method if name == raw.method.name else published("method", name) for name in names]
    for node in (raw.baseline, *nodes):
        check_targets(node)
    plain = next((f"student + {node.name}" for node in nodes if node.name == PLAIN_KD), None)
    recipes = [Recipe(ALONE, _composed(raw.baseline), judged=False, against=())]
    for name, node in zip(names, nodes, strict=True):
        own = f"student + {node.name}"
        further = (plain,) if plain is not None and name in judged and own != plain else ()
        recipes.append(Recipe(own, _composed(node), judged=name in judged, against=(ALONE, *further)))
    return recipes


def pairs(recipes: list[Recipe], present: list[str]) -> list[tuple[str, str]]:
    """(arm, reference) that are tested, of those that are there: every arm's first reference before any second."""
    most = max((len(recipe.against) for recipe in recipes), default=0)
    found = [(r.name, r.against[i]) for i in range(most) for r in recipes if len(r.against) > i]
    return [(name, base) for name, base in found if name in present and base in present]


def _composed(node: Any) -> dict[str, Any]:
    """A method as it was composed, its interpolations left as they are."""
    content: dict[str, Any] = OmegaConf.to_container(node)  # type: ignore[assignment]
    return content
