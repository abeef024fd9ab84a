"""``job=evaluate run=<folder>``: the student of a finished run on its test split."""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.utils import instantiate

from kd_lightning.config.command import Command
from kd_lightning.experiment.settle import reopen
from kd_lightning.files.artifact import required_run
from kd_lightning.files.runs import write_json
from kd_lightning.training.nets import load_net, load_run
from kd_lightning.training.predictions import predict

log = logging.getLogger("kd_lightning")


def run(command: Command, folder: Path) -> float | None:
    """Measure and write metrics.json; returns the score of the task, such as top-1."""
    artifact = load_run(required_run(command.settings))
    data = reopen(artifact).data
    call = instantiate(artifact.settings.student.call)
    metrics = predict(load_net(artifact), call, "test", data).metrics(data.task)
    write_json(folder / "metrics.json", metrics)
    log.info(f"{artifact.folder}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return metrics.get(data.task.score.key)
