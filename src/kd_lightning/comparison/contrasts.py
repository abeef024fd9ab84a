"""An arm against the reference: tested over seeds and samples, put into words, and what its mean hides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from kd_lightning.comparison import stats
from kd_lightning.comparison.records import Arm
from kd_lightning.measures.classes import won_and_lost
from kd_lightning.measures.format import points
from kd_lightning.tasks.base import Task

HIDDEN_DROP = 0.02  # a class that falls by this much while the mean does not fall is worth a warning


@dataclass
class Contrast:
    """One arm tested against the reference, paired by seed.

    Args:
        name: of the arm.
        reference: of the arm that it is tested against.
        seeds: that both have, in the order of the reference.
        differences: of the score (such as top-1, in [0, 1]) under each of them.
        test: paired t-test of the scores; None with fewer than two common seeds.
        p: its p-value after Holm's correction over all contrasts of the comparison.
        samples: exact McNemar test of each seed; none where samples are not independent, or not right or wrong.
        class_change: (S, C) change of the accuracy of each class, in [-1, 1].
        won: index of the samples that the arm gets right and the reference wrong, under the first common seed.
        lost: the other way round.
        outcome: 'gain', 'loss', 'none' (tested, no difference found) or 'unknown' (could not be tested).
        verdict: the same in words, with the test.
        warnings: what the mean hides.
    """

    name: str
    reference: str
    seeds: list[int]
    differences: list[float]
    test: stats.PairedTest | None
    p: float | None
    samples: list[stats.McNemar]
    class_change: Tensor
    won: Tensor
    lost: Tensor
    outcome: stats.Outcome = "unknown"
    verdict: str = ""
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def change(self) -> Tensor:
        """Mean change per class (C,)."""
        return self.class_change.mean(dim=0) if len(self.class_change) else self.class_change.new_empty(0)


def contrast_all(
    pairs: Sequence[tuple[Arm, Arm]], class_names: Sequence[str], alpha: float, task: Task
) -> list[Contrast]:
    """Each (arm, reference) tested, the p-values corrected over all of them."""
    score = task.score
    contrasts = [_contrast(base, arm, alpha, task) for arm, base in pairs]
    tested = sum(contrast.p is not None for contrast in contrasts)
    corrected = stats.holm([contrast.p for contrast in contrasts])
    for contrast, (arm, base), p in zip(contrasts, pairs, corrected, strict=True):
        contrast.p = p
        contrast.outcome = stats.outcome(contrast.test, p, alpha, score.sign)
        contrast.verdict = stats.verdict(
            base.of_seeds(score.key, contrast.seeds),
            arm.of_seeds(score.key, contrast.seeds),
            name=arm.name,
            reference=base.name,
            mcnemar=contrast.samples[0] if contrast.samples else None,
            p=p,
            comparisons=tested,
            alpha=alpha,
            score=score,
        )
        contrast.verdict = " ".join([contrast.verdict, *(one.collapse for one in (arm, base) if one.collapse)])
        contrast.warnings = _hidden(base, arm, contrast, class_names, alpha)
    return contrasts


def _contrast(base: Arm, arm: Arm, alpha: float, task: Task) -> Contrast:
    seeds = [seed for seed in base.seeds if seed in arm.seeds]
    rights = [
        (a, b)
        for seed in seeds
        if (a := _right(base, seed, task)) is not None and (b := _right(arm, seed, task)) is not None
    ]
    scores, others = base.of_seeds(task.score.key, seeds), arm.of_seeds(task.score.key, seeds)
    test = stats.paired_test(scores, others, alpha)
    nothing = torch.empty(0, dtype=torch.long)
    won, lost = nothing, nothing
    if rights:
        won, lost = won_and_lost(*rights[0], base.run(seeds[0]).index)
    return Contrast(
        name=arm.name,
        reference=base.name,
        seeds=seeds,
        differences=[b - a for a, b in zip(scores, others, strict=True)],
        test=test,
        p=test.p if test else None,
        samples=[stats.mcnemar(a, b) for a, b in rights],
        class_change=arm.classes_of_seeds(seeds) - base.classes_of_seeds(seeds),
        won=won,
        lost=lost,
    )


def _right(arm: Arm, seed: int, task: Task) -> Tensor | None:
    run = arm.run(seed)
    return task.right(run.logits, run.target)


def _hidden(base: Arm, arm: Arm, contrast: Contrast, class_names: Sequence[str], alpha: float) -> list[str]:
    """A warning where the accuracy does not fall but that of a class does, with the test of that class."""
    change, seeds = contrast.change.nan_to_num(0.0), contrast.seeds
    fell = sum(test.won - test.lost for test in contrast.samples) < 0
    if not len(change) or fell or float(change.min()) > -HIDDEN_DROP:
        return []
    worst = int(change.argmin())
    first = [base.run(seeds[0]), arm.run(seeds[0])]
    rows = first[0].target == worst
    of_worst = [one.classes_of_seeds(seeds)[:, worst].tolist() for one in (base, arm)]
    test = stats.paired_test(of_worst[0], of_worst[1], alpha)
    if test is None:
        right = [run.logits[rows].argmax(1) == worst for run in first]
        p: float | None = stats.mcnemar(right[0], right[1]).p
        name = "exact McNemar"
    else:
        p, name = test.p, "paired t-test"
    evidence = "the same on every seed, so no t-test" if p is None else f"{name} {stats.format_p(p)}"
    chance = "; that may be chance" if p is None or p >= alpha else ""
    return [
        f"The mean of {contrast.name} hides a loss: class {class_names[worst]} has "
        f"{points(float(change[worst]))} points against {contrast.reference} on its {int(rows.sum())} samples{chance} "
        f"({evidence}, not corrected for picking the worst of {len(change)} classes)."
    ]
