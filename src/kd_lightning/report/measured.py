"""One arm, measured: its metrics per seed, its accuracy per class, and how far it follows the teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kd_lightning.report import calibration, measure, stats
from kd_lightning.report.records import Arm, Kind, Run
from kd_lightning.report.tasks import Task


@dataclass
class Measured:
    """An arm with its measures: one dict of metrics and one row of class accuracies (S, C) per seed.

    Where the task has no classes, C is 0.
    """

    arm: Arm
    metrics: list[dict[str, float]]
    class_accuracy: Tensor
    alpha: float = 0.05

    @property
    def name(self) -> str:
        return self.arm.name

    @property
    def kind(self) -> Kind:
        return self.arm.kind

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.arm.runs]

    def run(self, seed: int) -> Run:
        """The run of that seed."""
        return self.arm.runs[self.seeds.index(seed)]

    def summary(self, metric: str) -> stats.Summary | None:
        """Mean and spread of a metric over the seeds; None if the arm does not have it."""
        values = [row[metric] for row in self.metrics if metric in row]
        return stats.summarise(values, self.alpha) if values else None

    @cached_property
    def class_mean(self) -> Tensor:
        """Accuracy per class (C,), mean over seeds; nan where the test split has no sample of it."""
        return self.class_accuracy.mean(dim=0)

    def metrics_mean(self, metric: str) -> float:
        """Mean of a metric that every run has; nan where a run lacks it."""
        if any(metric not in row for row in self.metrics):
            return math.nan
        return sum(row[metric] for row in self.metrics) / len(self.metrics)

    def of_seeds(self, metric: str, seeds: Sequence[int]) -> list[float]:
        """The metric under each of these seeds; empty where a run lacks it."""
        rows = [self.metrics[self.seeds.index(seed)] for seed in seeds]
        return [row[metric] for row in rows] if all(metric in row for row in rows) else []

    def classes_of_seeds(self, seeds: Sequence[int]) -> Tensor:
        """Accuracy per class under each of these seeds, (len(seeds), C)."""
        return self.class_accuracy[[self.seeds.index(seed) for seed in seeds]]

    @property
    def train_seconds(self) -> float | None:
        known = [run.train_seconds for run in self.arm.runs if run.train_seconds is not None]
        return sum(known) / len(known) if known else None


def measure_arm(arm: Arm, task: Task, alpha: float) -> Measured:
    """Every run of an arm measured."""
    metrics = [task.measures(run) | _scaled(run, task) | _robust(run) | run.whole for run in arm.runs]
    accuracy = [measure.per_class(r.logits, r.target)[0] if task.classes else r.logits.new_empty(0) for r in arm.runs]
    return Measured(arm, metrics, torch.stack(accuracy), alpha)


def _scaled(run: Run, task: Task) -> dict[str, float]:
    return calibration.scaled_metrics(run) if task.confidence else {}


def add_agreement(arms: list[Measured], teacher: Measured, task: Task) -> None:
    """Each student run beside the teacher of its own seed, or the first teacher where there is none."""
    for arm in (arm for arm in arms if arm.kind != "teacher"):
        for run, metrics in zip(arm.arm.runs, arm.metrics, strict=True):
            source = teacher.run(run.seed) if run.seed in teacher.seeds else teacher.arm.runs[0]
            metrics.update(task.agreement(run.logits, source.logits))


def _robust(run: Run) -> dict[str, float]:
    """The mean accuracy over all corruptions, where it was measured."""
    values = [value for kind, strengths in run.robustness.items() if kind != "clean" for value in strengths]
    return {"corrupted_top1": sum(values) / len(values)} if values else {}


def under(arm: Measured, kind: str) -> list[float]:
    """Mean accuracy over the seeds without the corruption and at each of its strengths."""
    runs = [run.robustness["clean"] + run.robustness[kind] for run in arm.arm.runs if kind in run.robustness]
    return [sum(values) / len(values) for values in zip(*runs, strict=True)]
