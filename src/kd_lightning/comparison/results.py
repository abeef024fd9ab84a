"""The comparison: every arm measured, every arm tested against the reference, and what the means hide."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kd_lightning.comparison.contrasts import Contrast, contrast_all
from kd_lightning.comparison.measured import add_agreement, measure_arm
from kd_lightning.comparison.records import Arm, Cost
from kd_lightning.files.artifact import Artifact
from kd_lightning.measures.classes import per_class
from kd_lightning.measures.score import Score
from kd_lightning.tasks.base import Task
from kd_lightning.tasks.registry import find_task

__all__ = ["Arm", "Comparison", "Contrast", "Cost", "compare"]


@dataclass
class Comparison:
    """Everything that a report shows; built by `compare`.

    `contrasts` has one test per arm; `further` those of arms that are tested against a second reference too; `remarks`
    are sentences on how the arms were trained, which reports show as they are; `trivial` is the score of what looks at
    nothing, on the same split.
    """

    arms: list[Arm]
    class_names: list[str]
    support: Tensor
    reference: str | None
    contrasts: list[Contrast]
    alpha: float = 0.05
    images: dict[int, Tensor | str] = field(default_factory=dict)
    further: list[Contrast] = field(default_factory=list)
    task: str = "classification"
    remarks: list[str] = field(default_factory=list)
    trivial: float | None = None

    @property
    def kind(self) -> Task:
        """What is measured of the task."""
        return find_task(self.task)

    @property
    def score(self) -> Score:
        """What arms are judged by."""
        return self.kind.score

    @property
    def of_all(self) -> list[str]:
        """Names of the measures that are of the whole split, where the rows are an even sample of it."""
        whole = {key for arm in self.arms for run in arm.runs for key in run.whole}
        return [one.in_a_line for one in self.kind.columns if one.key in whole]

    @property
    def tests(self) -> list[Contrast]:
        """Every contrast; the p-values are corrected over all of them."""
        return [*self.contrasts, *self.further]

    @property
    def headlines(self) -> list[Contrast]:
        """The contrasts, first the one that titles speak of: of a judged method rather than of a control.

        Judged is what is tested against a second reference too; else the first distilled arm.
        """
        judged = {contrast.name for contrast in self.further}

        def rank(contrast: Contrast) -> tuple[bool, bool]:
            return not self.arm(contrast.name).distilled, contrast.name not in judged

        return sorted(self.contrasts, key=rank)

    @property
    def teacher(self) -> Arm | None:
        return next((arm for arm in self.arms if arm.teaches), None)

    @property
    def verdicts(self) -> list[str]:
        """One sentence per contrast; never empty."""
        if self.tests:
            return [contrast.verdict for contrast in self.tests]
        return ["Nothing to compare: whether distillation helps needs the student trained alone and the distilled one."]

    @property
    def warnings(self) -> list[str]:
        """A teacher that has nothing to teach, and what the means hide."""
        teacher = [] if (text := self._poor_teacher()) is None else [text]
        told = {name for contrast in self.tests for name in (contrast.name, contrast.reference)}
        teacher += [arm.collapse for arm in self.arms if arm.collapse and arm.name not in told]
        return teacher + [warning for contrast in self.contrasts for warning in contrast.warnings]

    def _poor_teacher(self) -> str | None:
        if self.teacher is None or self.reference is None:
            return None
        score = self.score
        teacher, alone = (arm.metrics_mean(score.key) for arm in (self.teacher, self.arm(self.reference)))
        if score.better(teacher - alone) or math.isnan(teacher - alone):
            return None
        found = (
            f"The teacher ({score.value(teacher)}) is not better than {self.reference} ({score.value(alone)}): a gain"
            " from it is not to be expected."
        )
        if self.trivial is not None and not score.better(teacher - self.trivial):
            return f"{found} Nor is it better than what looks at nothing ({score.value(self.trivial)})."
        return f"{found} Train it longer, or take a larger one."

    def leading(self, most: int = 5) -> list[Arm]:
        """The arms that pictures with little room show: teacher, reference, judged methods, then the others."""
        first = [arm.name for arm in self.arms if arm is self.teacher or arm.name == self.reference]
        first += [contrast.name for contrast in self.headlines]
        names = [*first, *(arm.name for arm in self.arms if arm.name not in first)]
        return [arm for arm in self.arms if arm.name in names[:most]]

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` needs to build it again: the arms with their logits (pictures are left out)."""
        arms = [arm.to_dict() for arm in self.arms]
        pairs = [[contrast.name, contrast.reference] for contrast in self.tests]
        names = {"class_names": self.class_names, "reference": self.reference, "task": self.task}
        return {"arms": arms, **names, "alpha": self.alpha, "pairs": pairs}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Comparison:
        arms = [Arm.from_dict(arm) for arm in data["arms"]]
        pairs = [(name, reference) for name, reference in data["pairs"]]
        more = {"alpha": data["alpha"], "pairs": pairs, "task": data["task"]}
        return compare(arms, data["class_names"], data["reference"], **more)


def compare(
    arms: Sequence[Arm],
    class_names: Sequence[str],
    reference: str | None = "student alone",
    images: Tensor | Mapping[int, Tensor] | Mapping[int, str] | Sequence[str] | None = None,
    alpha: float = 0.05,
    pairs: Sequence[tuple[str, str]] | None = None,
    task: str = "classification",
) -> Comparison:
    """Measure every arm and test every student against `reference`.

    Args:
        arms: over the same test split; the first of kind 'teacher' is the teacher that agreement is measured with.
        class_names: C names in the order of the logits; empty for a task without classes.
        reference: name of the arm that the others are tested against; None if there is none to test against.
        images: pictures of the samples, either {index: (C, H, W)} or a tensor (N, C, H, W) whose row i is the sample
            with the i-th smallest index; uint8, or floats (outside [0, 1] each picture is stretched to its own range).
            Texts are given likewise, as {index: text} or as a list in that order.
        alpha: level of the tests and intervals.
        pairs: (arm, reference) that are tested, in place of every student against `reference`; an arm may occur with
            several references, the first of which is the one that pictures and tables of classes are about.
        task: what the networks answer: its name.

    Raises:
        ValueError: no arm, a name twice, an unknown reference, class names that do not fit, or other test samples.
    """
    kind = find_task(task)
    _check(arms, class_names, reference, kind)
    first = arms[0].runs[0]
    measured = [measure_arm(arm, kind, alpha) for arm in arms]
    teacher = next((arm for arm in measured if arm.teaches), None)
    if teacher is not None:
        add_agreement(measured, teacher, kind)
    support = per_class(first.logits, first.target)[1] if kind.classes else torch.tensor([len(first.target)])
    pictures = images if isinstance(images, Mapping) else _by_index(images, first.index)
    names = [str(name) for name in class_names]
    trivial = kind.trivial(first.target, first.logits.shape[1])
    comparison = Comparison(measured, names, support, reference, [], alpha, dict(pictures), task=task, trivial=trivial)
    if pairs is None:
        others = [arm.name for arm in measured if not arm.teaches and arm.name != reference]
        pairs = [] if reference is None else [(name, reference) for name in others]
    found = contrast_all([(comparison.arm(name), comparison.arm(base)) for name, base in pairs], names, alpha, kind)
    first_of = {contrast.name: contrast for contrast in reversed(found)}
    comparison.contrasts = [contrast for contrast in found if first_of[contrast.name] is contrast]
    comparison.further = [contrast for contrast in found if first_of[contrast.name] is not contrast]
    return comparison


def _check(arms: Sequence[Arm], class_names: Sequence[str], reference: str | None, kind: Task) -> None:
    if not arms:
        raise ValueError("A comparison needs at least one arm, got none.")
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise ValueError(f"Every arm needs a name of its own, got {names}.")
    if reference is not None and reference not in names:
        near = difflib.get_close_matches(reference, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else " Give reference=None to compare without a test."
        raise ValueError(f"The reference {reference!r} is not among the arms {names}.{hint}")
    for run in (run for arm in arms for run in arm.runs):
        if kind.classes and run.logits.shape[1] != len(class_names):
            raise ValueError(f"Run {run.name!r} has {run.logits.shape[1]} classes, but {len(class_names)} class names.")
    check_same_samples([run for arm in arms for run in arm.runs])


def check_same_samples(runs: Sequence[Artifact]) -> None:
    """Refuse runs that cannot be compared row by row.

    Raises:
        ValueError: Two that were not evaluated on the same test samples; names both.
    """
    first = runs[0]
    for run in runs:
        if not torch.equal(run.index, first.index) or not torch.equal(run.target, first.target):
            raise ValueError(
                f"Runs {first.name!r} ({len(first.index)} samples) and {run.name!r} ({len(run.index)}) were not "
                "evaluated on the same test samples; evaluate both on one split."
            )


def _by_index(images: Tensor | Sequence[str] | None, index: Tensor) -> dict[int, Tensor] | dict[int, str]:
    if images is None:
        return {}
    if len(images) != len(index):
        what = "pictures" if isinstance(images, Tensor) else "texts"
        raise ValueError(f"{len(images)} {what} for {len(index)} test samples; give one each, in the order of index.")
    return dict(zip(index.tolist(), images, strict=True))
