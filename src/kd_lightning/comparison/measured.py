"""An arm is measured: its metrics per seed, its accuracy per class, and how far it follows the teacher."""

from __future__ import annotations

from dataclasses import replace

import torch

from kd_lightning.comparison.records import Arm
from kd_lightning.files.artifact import Artifact
from kd_lightning.measures.calibration import scaled_metrics
from kd_lightning.tasks.base import Task
from kd_lightning.tasks.classification import per_class


def measure_arm(arm: Arm, task: Task, alpha: float) -> Arm:
    """The arm with the measures of every run."""
    metrics = [
        task.measures(run.logits, run.target) | _scaled(run, task) | _robust(run) | run.whole for run in arm.runs
    ]
    accuracy = [per_class(r.logits, r.target)[0] if task.classes else r.logits.new_empty(0) for r in arm.runs]
    return replace(arm, metrics=metrics, class_accuracy=torch.stack(accuracy), alpha=alpha)


def _scaled(run: Artifact, task: Task) -> dict[str, float]:
    return scaled_metrics(run.logits, run.target, run.validation) if task.confidence else {}


def add_agreement(arms: list[Arm], teacher: Arm, task: Task) -> None:
    """Each student run beside the teacher of its own seed, or the first teacher where there is none."""
    for arm in (arm for arm in arms if not arm.teaches):
        for run, metrics in zip(arm.runs, arm.metrics, strict=True):
            source = teacher.run(run.seed) if run.seed in teacher.seeds else teacher.runs[0]
            metrics.update(task.agreement(run.logits, source.logits))


def _robust(run: Artifact) -> dict[str, float]:
    """The mean accuracy over all corruptions, where it was measured."""
    values = [value for kind, strengths in run.robustness.items() if kind != "clean" for value in strengths]
    return {"corrupted_top1": sum(values) / len(values)} if values else {}


def under(arm: Arm, kind: str) -> list[float]:
    """Mean accuracy over the seeds without the corruption and at each of its strengths."""
    runs = [run.robustness["clean"] + run.robustness[kind] for run in arm.runs if kind in run.robustness]
    return [sum(values) / len(values) for values in zip(*runs, strict=True)]
