"""``job=cache``: store what the method asks of the teacher, for every training that will ask the same."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from kd_lightning.jobs._arm import deployed_net
from kd_lightning.jobs._assemble import build_data, build_distiller, needs_teacher
from kd_lightning.jobs._check import check_targets
from kd_lightning.jobs._teacher import obtain_teacher


def run(cfg: DictConfig, folder: Path) -> None:
    """Train or load the teacher, and write what is missing of its signals."""
    check_targets(cfg)
    data = build_data(cfg)
    teacher = obtain_teacher(cfg, data)[0] if needs_teacher(cfg.method) else None
    cfg.teacher.cache = "write"
    build_distiller(cfg, data, deployed_net(cfg, teacher), teacher)
    if data.signals is None:
        raise ValueError(f"The method {cfg.method.name} asks for no signals of a teacher: there is nothing to store.")
