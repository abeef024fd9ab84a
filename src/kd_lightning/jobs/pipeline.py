"""``job=pipeline``: teacher, student alone, distilled student; compared, reported, exported."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from kd_lightning.data.base import SplitDataModule
from kd_lightning.jobs._arm import FittedArm, fit_arm
from kd_lightning.jobs._assemble import build_data
from kd_lightning.jobs._check import check_targets
from kd_lightning.jobs._comparison import build_arm, build_comparison, build_teacher_arm, cost_of, show
from kd_lightning.jobs._export import export_student
from kd_lightning.jobs._select import select_training, selection_remarks
from kd_lightning.jobs._student import prepare_student
from kd_lightning.jobs._teacher import obtain_teacher
from kd_lightning.report.results import Comparison
from kd_lightning.runs import is_main_process, write_status

log = logging.getLogger("kd_lightning")

ALONE = "student alone"


def run(cfg: DictConfig, folder: Path) -> float:
    """The whole way; returns the distilled student's mean value of ``metrics.monitor`` on validation."""
    check_targets(cfg)
    data = build_data(cfg)
    if is_main_process():
        data.save_split(folder)
    seeds = list(cfg.seeds) if cfg.seeds is not None else [cfg.seed]
    kinds = (cfg.baseline is not None) + 1 + (cfg.data.get("select") is not None)
    trainings = 1 + (cfg.student.fit is not None) + kinds * len(seeds)
    log.info(f"Plan: {trainings} trainings (teacher, then student {cfg.student.name} with seeds {seeds})")

    teacher, teacher_arm = obtain_teacher(cfg, data)
    prepare_student(cfg)
    distilled_name = f"student + {cfg.method.name}"
    fitted: dict[str, list[FittedArm]] = {}
    students = _students(cfg, data, teacher, folder, distilled_name)
    for seed in seeds:
        for one in students:
            own = _with_method(cfg, one.method, seed)
            net = None if one.kind == "alone" else teacher
            target = folder / one.folder / f"seed_{seed}"
            arm = fit_arm(own, target, one.data, net, f"{one.name}, seed {seed}", one.kind, trainings=len(seeds))
            fitted.setdefault(one.name, []).append(arm)

    validation = sum(_validation(arm, cfg) for arm in fitted[distilled_name]) / len(seeds)
    if not is_main_process():
        return validation
    comparison = _compare(cfg, folder, data, fitted, (teacher, teacher_arm))
    comparison.remarks += selection_remarks(folder)
    chosen = max(fitted[distilled_name], key=lambda arm: _validation(arm, cfg))
    write_status(folder, student=str(chosen.folder.relative_to(folder)))
    show(comparison, folder, cfg)
    export_student(chosen, data, folder / "export", cfg)
    return validation


@dataclass(frozen=True)
class _Student:
    """An arm of the pipeline: what it is called, how it learns and from which samples, and where it lies."""

    name: str
    method: DictConfig
    kind: str
    data: SplitDataModule
    folder: str


def _students(
    cfg: DictConfig, data: SplitDataModule, teacher: nn.Module, folder: Path, distilled: str
) -> list[_Student]:
    """The student alone, the distilled one, and where ``data.select`` chooses its samples, one that gets them all."""
    found = []
    if cfg.baseline is not None:
        found.append(_Student(ALONE, cfg.baseline, "alone", data, "alone"))
    if cfg.data.get("select") is None:
        return [*found, _Student(distilled, cfg.method, "distilled", data, cfg.method.name)]
    chosen = build_data(cfg)
    select_training(cfg, chosen, teacher, folder)
    found.append(_Student(f"{distilled}, all samples", cfg.method, "distilled", data, f"{cfg.method.name}_all"))
    return [*found, _Student(distilled, cfg.method, "distilled", chosen, cfg.method.name)]


def _with_method(cfg: DictConfig, method: DictConfig, seed: int) -> DictConfig:
    """The configuration of one arm."""
    own = copy.deepcopy(cfg)
    own.seed = seed
    own.seeds = None
    own.method = method
    return own


def _validation(arm: FittedArm, cfg: DictConfig) -> float:
    """The arm's best value on validation, larger is better."""
    value = arm.record["validation"][cfg.metrics.monitor]
    sign = 1.0 if cfg.metrics.mode == "max" else -1.0
    return float("nan") if value is None else sign * float(value)


def _compare(
    cfg: DictConfig,
    folder: Path,
    data: SplitDataModule,
    fitted: dict[str, list[FittedArm]],
    teacher: tuple[nn.Module, FittedArm | None],
) -> Comparison:
    """Teacher, student alone and distilled student on the test split."""
    log.info("Comparing on the test split ...")
    arms = [build_teacher_arm(cfg, folder, data, *teacher)]
    for name, group in fitted.items():
        cost = cost_of(group[0].net, instantiate(cfg.student.call), data, group[0].folder, cfg)
        arms.append(build_arm(name, group[0].record["kind"], [a.folder for a in group], cost))
    reference = ALONE if ALONE in fitted else None
    names = [arm.name for arm in arms if arm.kind == "distilled"]
    pairs = [(name, ALONE) for name in names if reference]
    pairs += [(names[-1], name) for name in names[:-1]]  # what the choice of the samples changed
    return build_comparison(arms, data, cfg, reference, pairs, teacher=teacher[0])
