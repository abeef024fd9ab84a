"""What a comparison is made of: what a network costs, and arms: artifacts of several seeds, with their measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.comparison import stats
from kd_lightning.files.artifact import Answers, Artifact, Part
from kd_lightning.measures.similarity import Similarity


@dataclass
class Cost:
    """What a network costs to deploy; None where it was not measured.

    Args:
        parameters: number of parameters, shared ones counted once.
        flops: floating-point operations of one sample (a multiply-add counts as two).
        file_bytes: size of the weight file in bytes.
        latency_ms_batch1: median time of one forward of one sample, in milliseconds.
        latency_ms_batched: median time of one forward of `batched` samples, in milliseconds.
        batched: that batch size.
    """

    parameters: int | None = None
    flops: int | None = None
    file_bytes: int | None = None
    latency_ms_batch1: float | None = None
    latency_ms_batched: float | None = None
    batched: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cost:
        return cls(**data)


@dataclass
class Arm:
    """One side of a comparison: the same recipe under one or several seeds, and its measures once `compare` took them.

    Args:
        name: as shown, e.g. 'teacher', 'student alone', 'student + kd'.
        kind: what its net is: 'teacher', 'alone' or 'distilled'.
        runs: at least one, each with its own seed.
        cost: of the network that would be deployed.
        metrics: one dict per seed; empty until it is measured.
        class_accuracy: (S, C), one row per seed; where the task has no classes, C is 0.
        alpha: level of the intervals.
        collapsed: so many of its runs give one answer for the whole test split.
    """

    name: str
    kind: Part
    runs: list[Artifact]
    cost: Cost = field(default_factory=Cost)
    metrics: list[dict[str, float]] = field(default_factory=list)
    class_accuracy: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    alpha: float = 0.05
    collapsed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in list(Part):
            raise ValueError(f"Arm {self.name!r} is of kind {self.kind!r}; use one of {', '.join(Part)}.")
        self.kind = Part(self.kind)
        if not self.runs:
            raise ValueError(f"Arm {self.name!r} has no run; leave it out or train it.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"Arm {self.name!r} has a seed twice: {self.seeds}. Seeds pair the runs, so each may occur once."
            )

    @property
    def teaches(self) -> bool:
        """Whether the others learn from it."""
        return self.kind is Part.TEACHER

    @property
    def distilled(self) -> bool:
        """Whether it learns from others than the labels."""
        return self.kind is Part.DISTILLED

    @property
    def alone(self) -> bool:
        """Whether it learns from the labels alone."""
        return self.kind is Part.ALONE

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def collapse(self) -> str | None:
        """A sentence where runs have collapsed: whatever their scores are, they have learnt nothing."""
        if not self.collapsed:
            return None
        some = "" if self.collapsed == len(self.runs) else f" under {self.collapsed} of {len(self.runs)} seeds"
        return f"{self.name} has collapsed{some}: it gives one and the same answer for the whole test split."

    def run(self, seed: int) -> Artifact:
        """The run of that seed."""
        return self.runs[self.seeds.index(seed)]

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
        known = [run.train_seconds for run in self.runs if run.train_seconds is not None]
        return sum(known) / len(known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """What it is measured from, as plain values; the measures follow from it."""
        runs = [_plain(run) for run in self.runs]
        return {"name": self.name, "kind": self.kind.value, "runs": runs, "cost": self.cost.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Arm:
        runs = [_artifact(run) for run in data["runs"]]
        return cls(data["name"], Part(data["kind"]), runs, Cost.from_dict(data["cost"]))


def _plain(run: Artifact) -> dict[str, Any]:
    """A JSON-able copy of all that a comparison reads; tensors become lists."""
    return {
        "folder": str(run.folder),
        "record": dict(run.record),
        "name": run.name,
        "probes": run.probes,
        "similarity": None if run.similarity is None else asdict(run.similarity),
        "answers": {key: getattr(run.answers, key).tolist() for key in ("logits", "target", "index")},
        "validation": None if run.validation is None else [part.tolist() for part in run.validation],
        "curves": [dict(row) for row in run.curves],
    }


def _artifact(data: Mapping[str, Any]) -> Artifact:
    """The same in memory: nothing of it is read from its folder."""
    similarity = None if data["similarity"] is None else Similarity(**data["similarity"])
    more = {"probes": data["probes"], "similarity": similarity}
    run = Artifact(Path(data["folder"]), data["record"], data["name"], **more)
    run.answers = Answers(run.name, **{key: torch.tensor(rows) for key, rows in data["answers"].items()})
    run.validation, run.curves = None, data["curves"]
    if data["validation"] is not None:
        logits, target = map(torch.tensor, data["validation"])
        run.validation = logits, target
    return run
