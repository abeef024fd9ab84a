"""``job=evaluate run=<folder>``: the student of a finished run on its test split."""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from kd_lightning.jobs._arm import predict_logits
from kd_lightning.jobs._assemble import build_data
from kd_lightning.jobs._load import load_run, required_run
from kd_lightning.report.measure import classification_metrics
from kd_lightning.runs import write_json

log = logging.getLogger("kd_lightning")


def run(cfg: DictConfig, folder: Path) -> float:
    """Measure and write metrics.json; returns top-1."""
    loaded = load_run(required_run(cfg))
    data = build_data(loaded.cfg)
    predictions = predict_logits(
        loaded.net, instantiate(loaded.cfg.student.call), data.loader("test", whole=True), data
    )
    classes = int(loaded.cfg.data.num_classes)
    metrics = classification_metrics(predictions["logits"], predictions["target"], classes)
    write_json(folder / "metrics.json", metrics)
    log.info(f"{loaded.folder}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return metrics["top1"]
