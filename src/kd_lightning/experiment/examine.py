"""Has a frozen role anything to teach? It is scored on validation before anybody learns from it."""

from __future__ import annotations

import logging
from typing import Any

import torch
from hydra.utils import instantiate

from kd_lightning.config.roles import TEACHER, frozen, key_of
from kd_lightning.config.schema import Config, Frozen
from kd_lightning.core.device import training_device
from kd_lightning.data.base import SplitDataModule
from kd_lightning.experiment.source import Source
from kd_lightning.files.artifact import Answers
from kd_lightning.measures.score import in_a_line
from kd_lightning.training.nets import check_finite
from kd_lightning.training.predictions import Predictions, predict

log = logging.getLogger("kd_lightning")

CHOICES = ("stop", "warn", "off")
# Metrics are float32: the same share of right answers may differ by so much.
ROUNDING = 1e-6


def strictness(settings: Config, role: Frozen) -> str:
    """What is to happen with a role that has nothing to teach: ``stop``, ``warn`` or ``off``.

    Raises:
        ValueError: Another word.
    """
    asked = str(role.check or frozen(settings)[TEACHER].check)
    if asked.lower() in ("off", "false"):  # YAML reads a bare `off` as false
        return "off"
    if asked not in CHOICES:
        raise ValueError(f"check={asked} of a frozen role: choose {', '.join(CHOICES)}.")
    return asked


def examine(settings: Config, data: SplitDataModule, source: Source) -> None:
    """Score a role on validation beside the score of what looks at nothing, and say both.

    Nothing is done where the role does not answer the task, the task has no such score, or there is no validation.

    Args:
        settings: The whole configuration.
        data: Prepared data.
        source: The role.

    Raises:
        ValueError: Its weights are not finite; or, under ``check=stop``, it has nothing to teach.
    """
    check_finite(source.net, f"The {source.name} {source.role.name}")
    strict, call, task = strictness(settings, source.role), instantiate(source.role.call), data.task
    if strict == "off" or task.output not in call.provides or not len(data.split.validation):
        return
    found = _predictions(settings, data, source, call)
    answers = Answers(f"{source.name} on validation", **found.rows)
    trivial = task.trivial(answers.target, answers.logits.shape[1])
    if trivial is None:
        return
    reached = (task.measures(answers.logits, answers.target) | found.whole)[task.score.key]
    who = f"{source.name} {source.role.name}"
    beside = f"{task.score.value(reached)} on validation (trivial: {task.score.value(trivial)})"
    log.info(f"{who}: {in_a_line(task.score.name)} {beside}")
    wrong = task.misordered(answers.logits, answers.target, data.class_names)
    if wrong is None and task.score.better(reached - trivial) and abs(reached - trivial) > ROUNDING:
        return
    reason = wrong or (
        f"has nothing to teach, it is no better than what looks at nothing: {task.score.name} {beside}."
        f" {_advice(source)}"
    )
    message = f"The {who} {reason} To go on all the same: {key_of(source.name)}.check=warn."
    if strict == "stop":
        raise ValueError(message)
    log.warning(message)


def _predictions(settings: Config, data: SplitDataModule, source: Source, call: Any) -> Predictions:
    """What its training left where it has one, else its answers now, on the device of the training."""
    trained = None if source.artifact is None else source.artifact.validation
    if trained is not None:
        logits, target = trained
        return Predictions({"logits": logits, "target": target, "index": torch.arange(len(target))})
    device = training_device(settings.trainer.accelerator, settings.trainer.devices)
    return predict(source.net, call, "validation", data, device)


def _advice(source: Source) -> str:
    """What to do, by where it comes from."""
    key = key_of(source.name)
    if source.artifact is not None:
        return (
            f"Look at its curves in {source.artifact.folder}/logs; other settings of its training are set under"
            f" {key}.fit, such as {key}.fit.optimizer.lr."
        )
    if source.role.checkpoint is None:
        return f"It is used as it is built: give it a {key}.checkpoint, or let it be trained first ({key}.fit={{}})."
    return f"Was {key}.checkpoint trained on these classes and this preprocessing, and does it have the head of them?"
