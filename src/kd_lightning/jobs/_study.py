"""The plan of a study: arms times seeds; every pair is a cell, one training with a place of its own."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import nn

from kd_lightning.data.base import SplitDataModule
from kd_lightning.jobs._arm import FittedArm, arm_identity
from kd_lightning.jobs._assemble import build_data, needs_teacher
from kd_lightning.jobs._check import check_targets
from kd_lightning.jobs._load import ARM
from kd_lightning.jobs._select import select_training
from kd_lightning.jobs._student import prepare_student
from kd_lightning.jobs._teacher import obtain_teacher

log = logging.getLogger("kd_lightning")

ALONE = "student alone"
PLAIN_KD = "kd"


@dataclass(frozen=True)
class Recipe:
    """One arm before it is trained.

    Attributes:
        name: What the tables call it.
        method: The method's whole configuration.
        judged: Whether it is one of the methods that the study is about; else a control.
    """

    name: str
    method: DictConfig
    judged: bool


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes:
        arm: Name of its arm.
        seed: Its seed.
        cfg: Its whole configuration.
        folder: Where it lives; the name has the hash of all that decides it.
        taught: Whether the method takes anything from the teacher.
    """

    arm: str
    seed: int
    cfg: DictConfig
    folder: Path
    taught: bool

    @property
    def label(self) -> str:
        """What the log calls it."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def lock(self) -> Path:
        """The file whose lock says that a process is at it."""
        return self.folder.parent / f".{self.folder.name}.lock"

    @property
    def done(self) -> bool:
        """Whether it is finished, now or by an earlier study."""
        return (self.folder / ARM).is_file() and (self.folder / "student.safetensors").is_file()


@dataclass(frozen=True)
class Study:
    """All that a process needs to work on a study."""

    data: SplitDataModule
    teacher: nn.Module
    teacher_arm: FittedArm | None
    cells: list[Cell]


def study_recipes(cfg: DictConfig) -> list[Recipe]:
    """The student alone, the controls, and the methods that are judged.

    The chosen ``method`` is taken as it stands in the configuration, with what an experiment or the command line set
    for it; the others as they are published.

    Raises:
        ValueError: Where there is no baseline, or a method cannot be built.
    """
    if cfg.baseline is None:
        raise ValueError("job=study needs the student alone to compare with: leave baseline as it is.")
    judged = [cfg.method.name] if cfg.study.methods is None else list(cfg.study.methods)
    recipes = [Recipe(ALONE, cfg.baseline, False)]
    for name in dict.fromkeys([*cfg.study.controls, *judged]):
        if name == cfg.baseline.name:
            continue
        method = cfg.method if name == cfg.method.name else published(name)
        recipes.append(Recipe(f"student + {method.name}", method, name in judged))
    for recipe in recipes:
        check_targets(recipe.method)
    return recipes


def published(name: str) -> DictConfig:
    """The configuration of a method as its YAML has it, from the same folders as this command's.

    Raises:
        hydra.errors.MissingConfigException: There is no method of that name.
    """
    overrides = [f"method={name}"]
    if GlobalHydra.instance().is_initialized():
        overrides += [o for o in HydraConfig.get().overrides.hydra if "searchpath" in o]
        return _composed(overrides)
    # In a process that a launcher started.
    sources = {source.provider: source.path for source in HydraConfig.get().runtime.config_sources}
    if "command-line" in sources:
        overrides.append(f"hydra.searchpath=[file://{sources['command-line']}]")
    with initialize_config_dir(sources["main"], version_base="1.3"):
        return _composed(overrides)


def _composed(overrides: list[str]) -> DictConfig:
    method: DictConfig = compose("config", overrides).method
    return method


def open_study(cfg: DictConfig, recipes: list[Recipe]) -> Study:
    """Data, teacher and cells: the same in every process. The cells of the first seed come first.

    Args:
        cfg: The whole configuration.
        recipes: The arms.
    """
    data = build_data(cfg)
    teacher, teacher_arm = obtain_teacher(cfg, data)
    prepare_student(cfg)
    select_training(cfg, data, teacher, Path(cfg.study.folder))  # for all arms: equal data
    seeds = list(cfg.seeds) if cfg.seeds is not None else [cfg.seed]
    return Study(data, teacher, teacher_arm, [_cell(cfg, r, s, data, teacher) for s in seeds for r in recipes])


def _cell(cfg: DictConfig, recipe: Recipe, seed: int, data: SplitDataModule, teacher: nn.Module) -> Cell:
    own = copy.deepcopy(cfg)
    own.seed, own.seeds, own.method = seed, None, recipe.method
    taught = needs_teacher(own.method)
    identity = arm_identity(own, data, teacher if taught else None)
    folder = Path(cfg.study.folder) / "cells" / f"{own.method.name}-{seed}-{identity}"
    return Cell(recipe.name, seed, own, folder, taught)
