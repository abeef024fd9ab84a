"""What a comparison is made of: the cost of a network, one evaluated run, and an arm of several seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Kind = Literal["teacher", "alone", "distilled"]
IGNORED = -100  # the target that the whole framework leaves out


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


@dataclass(frozen=True)
class Similarity:
    """Linear CKA, in [0, 1], of every layer of the teacher (rows) with every layer of the student (columns)."""

    teacher: list[str]
    student: list[str]
    values: list[list[float]]


@dataclass
class Run:
    """One trained network on the test split.

    Rows are put in the order of `index` and repeated ones (a distributed sampler pads) are dropped, so that two runs
    over the same split can be compared row by row; rows whose target is -100 (a class) or nan (a value) are left out.

    Args:
        name: of the run, for messages.
        seed: that it was trained with; runs of two arms are paired by it.
        folder: where it lies.
        logits: (N, C) of the test split: logits, predicted values (N, 1) or embeddings.
        target: (N,) true classes int64, or true values float32 (of embeddings, which have
            none, zeros).
        index: (N,) stable sample numbers.
        curves: rows of Lightning's CSV log (`epoch`, `step`, `train/loss`, `train/<term>`, `val/top1`, ...);
            a row needs not have every column, and an empty string counts as absent.
        train_seconds: wall time of the training, None where unknown.
        validation: logits (M, C) and targets (M,) of the validation split, which the temperature is fitted on.
        robustness: kind of corruption -> accuracy on corrupted test samples at each strength, and `clean` -> that of
            the same samples as they are.
        similarity: of its layers with the teacher's.
        whole: metrics of the whole test split, where the rows here are a sample of it.
        choices: metrics on test of each choice of weights: `last`, `best` (on validation), `best_on_test`.
        epochs: that were trained.
        energy_joules: of the training, None where the machine does not tell.

    Raises:
        ValueError: shapes that do not belong together, no sample, a target out of range, or logits that are not finite.
    """

    name: str
    seed: int
    folder: str
    logits: Tensor
    target: Tensor
    index: Tensor
    curves: list[dict[str, Any]] = field(default_factory=list)
    train_seconds: float | None = None
    validation: tuple[Tensor, Tensor] | None = None
    robustness: dict[str, list[float]] = field(default_factory=dict)
    similarity: Similarity | None = None
    whole: dict[str, float] = field(default_factory=dict)
    choices: dict[str, dict[str, float]] = field(default_factory=dict)
    epochs: float | None = None
    energy_joules: float | None = None

    def __post_init__(self) -> None:
        logits, target, index = self.logits.detach().cpu().float(), self.target.cpu(), self.index.cpu().long()
        target = target.float() if target.is_floating_point() else target.long()
        if logits.ndim != 2 or target.shape != logits.shape[:1] or index.shape != target.shape:
            shapes = f"logits {tuple(logits.shape)}, target {tuple(target.shape)}, index {tuple(index.shape)}"
            raise ValueError(f"Run {self.name!r} needs logits (N, C), target (N,) and index (N,), got {shapes}.")
        valid = target.isfinite() if target.is_floating_point() else target != IGNORED
        logits, target, index = logits[valid], target[valid], index[valid]
        order = index.argsort(stable=True)
        index = index[order]
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        keep = order[first]
        self.logits, self.target, self.index = logits[keep], target[keep], index[first]
        self._check()

    def _check(self) -> None:
        if not len(self.target):
            raise ValueError(f"Run {self.name!r} has no labelled sample to be judged on; look at its test split.")
        broken = int((~self.logits.isfinite()).any(dim=1).sum())
        if broken:
            raise ValueError(
                f"Run {self.name!r} gives logits that are not finite for {broken} of {len(self.target)} samples: "
                "its training diverged, or its precision overflowed. Lower the learning rate or use bf16 or float32."
            )
        low, high = int(self.target.min()), int(self.target.max())
        if not self.target.is_floating_point() and (low < 0 or high >= self.logits.shape[1]):
            raise ValueError(f"Run {self.name!r} has targets {low}..{high} for {self.logits.shape[1]} classes.")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy; tensors become lists."""
        tensors = {key: getattr(self, key).tolist() for key in ("logits", "target", "index")}
        rows = [dict(row) for row in self.curves]
        plain = {"name": self.name, "seed": self.seed, "folder": self.folder, "train_seconds": self.train_seconds}
        validation = None if self.validation is None else [part.tolist() for part in self.validation]
        similarity = None if self.similarity is None else asdict(self.similarity)
        more = {"validation": validation, "robustness": self.robustness, "similarity": similarity, "whole": self.whole}
        training = {"choices": self.choices, "epochs": self.epochs, "energy_joules": self.energy_joules}
        return plain | tensors | {"curves": rows} | more | training

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Run:
        more: dict[str, Any] = {key: torch.tensor(data[key]) for key in ("logits", "target", "index")}
        if data.get("validation") is not None:
            more["validation"] = tuple(torch.tensor(part) for part in data["validation"])
        if data.get("similarity") is not None:
            more["similarity"] = Similarity(**data["similarity"])
        return cls(**{**data, **more})


@dataclass
class Arm:
    """One side of a comparison: the same recipe under one or several seeds.

    Args:
        name: as shown, e.g. 'teacher', 'student alone', 'student + kd'.
        kind: 'teacher', 'alone' or 'distilled'.
        runs: at least one, each with its own seed.
        cost: of the network that would be deployed.
    """

    name: str
    kind: Kind
    runs: list[Run]
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"Arm {self.name!r} is of kind {self.kind!r}; use one of {', '.join(get_args(Kind))}.")
        if not self.runs:
            raise ValueError(f"Arm {self.name!r} has no run; leave it out or train it.")
        seeds = [run.seed for run in self.runs]
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                f"Arm {self.name!r} has a seed twice: {seeds}. Seeds pair the runs, so each may occur once."
            )

    def to_dict(self) -> dict[str, Any]:
        runs = [run.to_dict() for run in self.runs]
        return {"name": self.name, "kind": self.kind, "runs": runs, "cost": self.cost.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Arm:
        runs = [Run.from_dict(run) for run in data["runs"]]
        return cls(data["name"], data["kind"], runs, Cost.from_dict(data["cost"]))
