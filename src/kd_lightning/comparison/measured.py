"""An arm is measured: its metrics per seed, its accuracy per class, and how far it follows the teacher."""

from __future__ import annotations

from dataclasses import replace

import torch

from kd_lightning.comparison.records import Arm
from kd_lightning.files.artifact import Artifact
from kd_lightning.measures.calibration import scaled_metrics
from kd_lightning.measures.classes import per_class
from kd_lightning.measures.probe import known_probes
from kd_lightning.measures.robustness import ROBUSTNESS
from kd_lightning.tasks.base import Task


def measure_arm(arm: Arm, task: Task, alpha: float) -> Arm:
    """The arm with the measures of every run."""
    metrics = [
        task.measures(run.logits, run.target) | _scaled(run, task) | _probed(run) | run.whole for run in arm.runs
    ]
    accuracy = [per_class(r.logits, r.target)[0] if task.classes else r.logits.new_empty(0) for r in arm.runs]
    collapsed = sum(task.collapsed(run.logits, run.target) for run in arm.runs)
    return replace(arm, metrics=metrics, class_accuracy=torch.stack(accuracy), alpha=alpha, collapsed=collapsed)


def _scaled(run: Artifact, task: Task) -> dict[str, float]:
    return scaled_metrics(run.logits, run.target, run.validation) if task.confidence else {}


def add_agreement(arms: list[Arm], teacher: Arm, task: Task) -> None:
    """Each student run beside the teacher of its own seed, or the first teacher where there is none."""
    for arm in (arm for arm in arms if not arm.teaches):
        for run, metrics in zip(arm.runs, arm.metrics, strict=True):
            source = teacher.run(run.seed) if run.seed in teacher.seeds else teacher.runs[0]
            metrics.update(task.agreement(run.logits, source.logits))


def _probed(run: Artifact) -> dict[str, float]:
    """The numbers of what was measured of the net itself."""
    found = [known_probes()[key].numbers(values) for key, values in run.probes.items()]
    return {name: value for numbers in found for name, value in numbers.items()}


def under(arm: Arm, kind: str) -> list[float]:
    """Mean accuracy over the seeds without the corruption and at each of its strengths."""
    every = [run.probes.get(ROBUSTNESS.key, {}) for run in arm.runs]
    runs = [one["clean"] + one[kind] for one in every if kind in one]
    return [sum(values) / len(values) for values in zip(*runs, strict=True)]
