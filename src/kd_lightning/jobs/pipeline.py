"""``job=pipeline``: teacher, student alone, distilled student; compared, reported, exported."""

from __future__ import annotations

import copy
import logging
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
    arms = ["teacher"] + [f"{cfg[m].name} {s}" for s in seeds for m in ("baseline", "method") if cfg[m] is not None]
    log.info(f"Plan: {len(arms)} trainings (teacher, then student {cfg.student.name} with seeds {seeds})")

    teacher, teacher_arm = obtain_teacher(cfg, data)
    distilled_name = f"student + {cfg.method.name}"
    fitted: dict[str, list[FittedArm]] = {}
    for seed in seeds:
        for name, method, kind in ((ALONE, cfg.baseline, "alone"), (distilled_name, cfg.method, "distilled")):
            if method is None:
                continue
            own = _with_method(cfg, method, seed)
            target = folder / ("alone" if kind == "alone" else method.name) / f"seed_{seed}"
            net = None if kind == "alone" else teacher
            arm = fit_arm(own, target, data, net, f"{name}, seed {seed}", kind, trainings=len(seeds))
            fitted.setdefault(name, []).append(arm)

    validation = sum(_validation(arm, cfg) for arm in fitted[distilled_name]) / len(seeds)
    if not is_main_process():
        return validation
    comparison = _compare(cfg, folder, data, fitted, (teacher, teacher_arm))
    chosen = max(fitted[distilled_name], key=lambda arm: _validation(arm, cfg))
    write_status(folder, student=str(chosen.folder.relative_to(folder)))
    show(comparison, folder, cfg)
    export_student(chosen, data, folder / "export", cfg)
    return validation


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
    return build_comparison(arms, data, cfg, ALONE if ALONE in fitted else None, teacher=teacher[0])
