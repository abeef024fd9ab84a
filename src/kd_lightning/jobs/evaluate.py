"""``job=evaluate run=<folder>``: the student of a finished run on its test split."""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from kd_lightning.jobs._assemble import build_data
from kd_lightning.jobs._load import load_run, required_run
from kd_lightning.jobs._predictions import predict
from kd_lightning.report.tasks import TASKS
from kd_lightning.runs import write_json

log = logging.getLogger("kd_lightning")


def run(cfg: DictConfig, folder: Path) -> float | None:
    """Measure and write metrics.json; returns the score of the task, such as top-1."""
    loaded = load_run(required_run(cfg))
    data = build_data(loaded.cfg)
    metrics = predict(loaded.net, instantiate(loaded.cfg.student.call), "test", data).metrics(data.task)
    write_json(folder / "metrics.json", metrics)
    log.info(f"{loaded.folder}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return metrics.get(TASKS[data.task].score.key)
