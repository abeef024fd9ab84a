"""``job=train``: one student with the chosen method, and the teacher where the method needs one."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from kd_lightning.jobs._arm import fit_arm
from kd_lightning.jobs._assemble import build_data, needs_teacher
from kd_lightning.jobs._check import check_targets
from kd_lightning.jobs._teacher import obtain_teacher
from kd_lightning.runs import is_main_process, write_status

log = logging.getLogger("kd_lightning")


def run(cfg: DictConfig, folder: Path) -> float | None:
    """Train; returns the student's best value of ``metrics.monitor`` on validation, or None without a validation."""
    check_targets(cfg)
    data = build_data(cfg)
    if is_main_process():
        data.save_split(folder)
    teacher = obtain_teacher(cfg, data)[0] if needs_teacher(cfg.method) else None
    arm = fit_arm(cfg, folder, data, teacher, label=f"student {cfg.student.name} + {cfg.method.name}")
    best: float | None = arm.record["validation"][cfg.metrics.monitor]
    if not is_main_process():
        return best
    write_status(folder, student=".")
    for which, metrics in arm.record["test"].items():
        log.info(f"test ({which}): " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return best
