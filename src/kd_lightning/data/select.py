"""Choosing the training samples of a student by what the teacher, and a pilot student, make of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from kd_lightning.data.targets import IGNORE


@dataclass(frozen=True)
class Rules:
    """Which samples are kept (the configuration ``data.select``).

    Args:
        teacher_right: Only those whose label is the teacher's first answer.
        pilot: A student trained before, that has to be right too: the run folder or weights of one, or ``train`` to
            train the student alone first; None for no pilot.
        min_confidence: Least probability of the teacher's first answer.
        min_margin: Least distance of the probabilities of its first and second answer.
        min_size: At least so many samples are kept, or below 1 that share of them; those that rules leave out come
            back, the surest first.
        min_per_class: The same in every class.
        rest: How often a sample that is left out is shown, relative to a kept one; 0: never.
        by_confidence: Show a kept sample as often as the teacher is sure of its label, relative to the others.
        label_unlabelled: Samples without a label get the teacher's; otherwise they stay without.
    """

    teacher_right: bool = True
    pilot: str | None = None
    min_confidence: float = 0.0
    min_margin: float = 0.0
    min_size: float = 0.1
    min_per_class: float = 1
    rest: float = 0.0
    by_confidence: bool = False
    label_unlabelled: bool = True

    def __post_init__(self) -> None:
        for name in ("min_confidence", "min_margin", "rest"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.select.{name} must lie in 0..1, got {getattr(self, name)}.")
        for name in ("min_size", "min_per_class"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.select.{name} must not be negative, got {getattr(self, name)}.")


def make_rules(given: Mapping[str, Any]) -> Rules:
    """Rules of a configuration.

    Raises:
        ValueError: A name that is none of them.
    """
    known = [field.name for field in fields(Rules)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"data.select has no rule '{name}'; there are {', '.join(known)}.{hint}")
    return Rules(**given)


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        index: Samples that stay, ascending, (n,) int64.
        weights: How often each is shown relative to the others, (n,) float32; None where all are alike.
        labels: Their classes, the teacher's where the data had none, (n,) int64.
        record: Counts and means, as JSON values.
    """

    index: Tensor
    weights: Tensor | None
    labels: Tensor
    record: dict[str, Any]


def select_samples(rules: Rules, teacher: Tensor, targets: Tensor, pilot: Tensor | None = None) -> Selection:
    """Apply the rules.

    A sample without a label is judged by the teacher's answer: the teacher is right about it, and a pilot is where
    it agrees.

    Args:
        rules: The rules.
        teacher: Logits of the teacher, (N, C).
        targets: Classes, -100 where there is none, (N,) int64.
        pilot: Logits of the pilot student, (N, C).

    Raises:
        ValueError: The shapes do not fit.
    """
    if teacher.dim() != 2 or targets.shape != teacher.shape[:1] or (pilot is not None and pilot.shape != teacher.shape):
        shapes = [tuple(value.shape) for value in (teacher, targets, pilot) if value is not None]
        raise ValueError(f"Selection needs logits (N, C) and targets (N,), got {shapes}.")
    probabilities = teacher.double().softmax(1)
    top = probabilities.topk(min(2, teacher.shape[1]), dim=1)
    answer, confidence = top.indices[:, 0], top.values[:, 0]
    margin = top.values[:, 0] - top.values[:, -1] if teacher.shape[1] > 1 else confidence
    unlabelled = targets == IGNORE
    label = torch.where(unlabelled, answer, targets)
    sure = probabilities.gather(1, label[:, None]).squeeze(1)  # how sure the teacher is of the label

    fails = {
        "teacher_wrong": (answer != label) & rules.teacher_right,
        "pilot_wrong": torch.zeros_like(unlabelled) if pilot is None else pilot.argmax(1) != label,
        "low_confidence": confidence < rules.min_confidence,
        "low_margin": margin < rules.min_margin,
    }
    kept = ~torch.stack(list(fails.values())).any(0)
    floor = _floors(rules, kept, label, sure, teacher.shape[1])
    stays = kept | floor
    weights = torch.where(stays, sure if rules.by_confidence else torch.ones_like(sure), rules.rest)
    index = (weights > 0).nonzero().squeeze(1)
    new = label if rules.label_unlabelled else targets
    chosen = weights[index].float()
    return Selection(
        index,
        None if bool((chosen == chosen[:1]).all()) else chosen,
        new[index],
        _record(fails, kept, floor, index, label, unlabelled, confidence, margin),
    )


def _floors(rules: Rules, kept: Tensor, label: Tensor, sure: Tensor, classes: int) -> Tensor:
    """Samples that come back because too few were kept, of a class or of all; the surest first; (N,) bool."""
    back = torch.zeros_like(kept)

    def fill(pool: Tensor, wanted: float) -> None:
        size = int(pool.sum())
        count = int(-(-wanted * size // 1)) if wanted < 1 else int(wanted)
        missing = min(count, size) - int((pool & (kept | back)).sum())
        if missing > 0:
            candidates = (pool & ~kept & ~back).nonzero().squeeze(1)
            back[candidates[sure[candidates].argsort(descending=True, stable=True)[:missing]]] = True

    for number in range(classes):
        fill(label == number, rules.min_per_class)
    fill(torch.ones_like(kept), rules.min_size)
    return back


def _record(
    fails: Mapping[str, Tensor],
    kept: Tensor,
    floor: Tensor,
    index: Tensor,
    label: Tensor,
    unlabelled: Tensor,
    confidence: Tensor,
    margin: Tensor,
) -> dict[str, Any]:
    left_out, seen = {}, torch.zeros_like(kept)
    for reason, failed in fails.items():
        left_out[reason] = int((failed & ~seen).sum())
        seen = seen | failed
    stays = kept | floor
    classes = int(label.max()) + 1

    def mean(values: Tensor, mask: Tensor) -> float | None:
        return round(float(values[mask].mean()), 6) if mask.any() else None

    return {
        "samples": len(kept),
        "kept": int(stays.sum()),
        "shown": len(index),
        "kept_by_rules": int(kept.sum()),
        "kept_by_floor": int(floor.sum()),
        "left_out_by": left_out,
        "of_class": [int((label == c).sum()) for c in range(classes)],
        "kept_of_class": [int((stays & (label == c)).sum()) for c in range(classes)],
        "unlabelled": int(unlabelled.sum()),
        "unlabelled_kept": int((unlabelled & stays).sum()),
        "mean_confidence": {"kept": mean(confidence, stays), "left_out": mean(confidence, ~stays)},
        "mean_margin": {"kept": mean(margin, stays), "left_out": mean(margin, ~stays)},
    }
