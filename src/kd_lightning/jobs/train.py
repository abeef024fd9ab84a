"""``job=train``: one student with the chosen method, and the teacher where the method needs one."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig, open_dict

from kd_lightning.jobs._arm import fit_arm
from kd_lightning.jobs._assemble import build_data, needs_teacher
from kd_lightning.jobs._check import check_targets
from kd_lightning.jobs._objectives import check_objectives, objectives
from kd_lightning.jobs._select import select_training
from kd_lightning.jobs._student import prepare_student
from kd_lightning.jobs._teacher import obtain_teacher
from kd_lightning.runs import is_main_process, write_status
from kd_lightning.tuning.stop import STOPPED, MedianStop, TrialStoppedError

log = logging.getLogger("kd_lightning")


def run(cfg: DictConfig, folder: Path) -> float | list[float | None] | str | None:
    """Train; returns what ``tune.objectives`` asks for: by default the best value of ``metrics.monitor`` on validation.

    None without a validation, and ``"stopped"`` for a trial that a sweep stopped early.
    """
    check_targets(cfg)
    check_objectives(cfg)
    data = build_data(cfg)
    if is_main_process():
        data.save_split(folder)
    taught, chosen = needs_teacher(cfg.method), cfg.data.get("select") is not None
    teacher = obtain_teacher(cfg, data)[0] if taught or chosen else None
    prepare_student(cfg)
    if teacher is not None and chosen:
        select_training(cfg, data, teacher, folder)
    label = f"student {cfg.student.name} + {cfg.method.name}"
    try:
        arm = fit_arm(_watched(cfg, folder), folder, data, teacher if taught else None, label)
    except TrialStoppedError as stop:
        log.info(str(stop))
        return STOPPED
    result = objectives(cfg, arm, data)
    if not is_main_process():
        return result
    write_status(folder, student=".")
    for which, metrics in arm.record["test"].items():
        log.info(f"test ({which}): " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return result


def _watched(cfg: DictConfig, folder: Path) -> DictConfig:
    """The configuration with the callback that a sweep's trial needs."""
    if cfg.tune.curve or cfg.tune.medians is not None:
        node = {"_target_": f"{MedianStop.__module__}.{MedianStop.__qualname__}", "folder": str(folder)}
        node |= {"monitor": cfg.metrics.monitor, "mode": cfg.metrics.mode, "medians": cfg.tune.medians}
        with open_dict(cfg.callbacks):
            cfg.callbacks["median_stop"] = node
    return cfg
