"""Arms whose statistics are known: a run is right exactly where it is told to be."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kd_lightning.comparison.results import Arm, Cost
from kd_lightning.files.artifact import Answers, Artifact
from kd_lightning.measures.similarity import Similarity


def artifact(
    name: str,
    seed: int,
    folder: str,
    logits: Tensor,
    target: Tensor,
    index: Tensor,
    *,
    validation: tuple[Tensor, Tensor] | None = None,
    curves: list[dict] | None = None,
    robustness: dict[str, list[float]] | None = None,
    similarity: Similarity | None = None,
    choices: dict | None = None,
    **record,
) -> Artifact:
    """In memory: nothing of it lies in its folder. `record`: train_seconds, whole, epochs, energy_joules."""
    record = {"seed": seed, "test": choices or {}} | record
    made = Artifact(
        Path(folder), record, name, probes={"robustness": robustness} if robustness else {}, similarity=similarity
    )
    made.answers, made.validation, made.curves = Answers(name, logits, target, index), validation, curves or []
    return made


def run(right: Tensor, target: Tensor, classes: int, seed: int = 0, **more) -> Artifact:
    """Answers the target where `right`, the class after it elsewhere, with a margin of 2 over the other classes."""
    answer = torch.where(right, target, (target + 1) % classes)
    logits = 2.0 * torch.nn.functional.one_hot(answer, classes).float()
    index = more.pop("index", torch.arange(len(target)))
    return artifact(f"run-{seed}", seed, f"runs/{seed}", logits, target, index, **more)


def first(count: int, of: int) -> Tensor:
    """The first `count` of `of` are True."""
    return torch.arange(of) < count


def arms(rights: dict[str, list[int]], classes: int = 10, samples: int = 100, **more) -> list[Arm]:
    """An arm per name; the list says how many of the first samples each seed gets right."""
    target = torch.arange(samples) % classes
    kinds = {"teacher": "teacher", "student alone": "alone"}
    cost = Cost(1_233_540, 40_800_000, 84_000, 0.93, 8.1, 64)
    return [
        Arm(
            name,
            kinds.get(name, "distilled"),
            [run(first(n, samples), target, classes, seed, **more) for seed, n in enumerate(counts)],
            cost,
        )
        for name, counts in rights.items()
    ]


def curves(epochs: int = 6) -> list[dict]:
    """Rows as Lightning's CSV logger leaves them: half of the cells are empty strings."""
    rows = []
    for epoch in range(epochs):
        falling = 3.0 / (epoch + 1)
        losses = {"train/loss": f"{3 * falling}", "train/ce": f"{falling}", "train/kd": f"{2 * falling}"}
        rows.append({"epoch": f"{epoch}", "step": f"{10 * epoch}", "val/top1": ""} | losses)
        validation = {"epoch": f"{epoch}", "step": f"{10 * epoch + 9}", "val/top1": f"{0.9 - 0.5 / (epoch + 1)}"}
        rows.append(validation | dict.fromkeys(losses, ""))
    return rows
