"""An exported file beside PyTorch: the same answers, as accurate, as large, as fast?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.deploy.inputs import Inputs, part
from kd_lightning.measures.cost import latency
from kd_lightning.tasks.base import Task

LATENCY_BATCH = 64

REFINE = (
    "Refine it under int8 (student.quantise=true student.checkpoint=<run>), or calibrate with more samples"
    " (export.calibration=1000). "
)


@dataclass(frozen=True)
class Reference:
    """What PyTorch says of the split that files are checked on.

    Attributes:
        logits: (N, C) of the student in PyTorch; a row is a sample, or a token that has a target.
        target: (N,) classes, -100 where there is none; or values.
        task: What an answer is.
        teacher: (N, C) logits of the teacher, or None.
    """

    logits: Tensor
    target: Tensor
    task: Task
    teacher: Tensor | None = None

    def accuracy(self, logits: Tensor) -> float:
        """What these outputs are worth: ``quality`` of the task."""
        return self.task.quality(logits, self.target, self.logits)

    def alike(self, logits: Tensor, others: Tensor) -> float:
        """How alike two outputs are: ``alike`` of the task."""
        return self.task.alike(logits, others)

    def teacher_agreement(self, logits: Tensor) -> float | None:
        """How much like the teacher's these logits are; None without a teacher."""
        return None if self.teacher is None else self.alike(logits, self.teacher)


@dataclass(frozen=True)
class Figures:
    """One way to run the student, measured.

    Attributes:
        accuracy: On the split of the check.
        bytes: Size of the file.
        milliseconds_1: Median of one sample.
        milliseconds_64: Median of 64 samples.
        teacher_agreement: How much like the teacher's its answers are (``Reference.alike``).
        difference: Largest difference of a logit from PyTorch's, as a share of the largest logit.
        agreement: How much like PyTorch's its answers are.
    """

    accuracy: float
    bytes: int
    milliseconds_1: float
    milliseconds_64: float
    teacher_agreement: float | None = None
    difference: float = 0.0
    agreement: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, rounded to what they mean."""
        return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in asdict(self).items()}


Batches = Iterable[tuple[Inputs, Tensor | None]]
"""Inputs of a batch, and where a row is a token, which tokens count, (B, T) bool."""


def answers(run: Callable[[Inputs], Tensor], batches: Batches) -> Tensor:
    """What a student says of all batches, (N, C): a row a sample, or a token that counts."""
    rows = []
    for inputs, told in batches:
        answer = run(inputs)
        rows.append(answer if told is None else answer[told])
    return torch.cat(rows)


def measure(
    run: Callable[[Inputs], Tensor], size: int, batches: Batches, reference: Reference, example: tuple[Inputs, Any]
) -> Figures:
    """Run a student over the split of the check, and time it on this machine.

    Args:
        run: Inputs to logits.
        size: Size of its file in bytes.
        batches: Those of the reference, in its order.
        reference: What PyTorch says.
        example: The first batch; its first sample is timed, and must give alone what it gives in a batch.
    """
    inputs, told = example
    alone = answers(run, [(part(inputs, 0, 1), None if told is None else told[:1])])
    logits = answers(run, batches)
    scale = max(float(reference.logits.abs().max()), 1e-12)
    first = (alone - reference.logits[: len(alone)]).abs()
    gap = max(float((logits - reference.logits).abs().max()), float(first.max()) if len(alone) else 0.0)
    module = _Callable(run)
    return Figures(
        accuracy=reference.accuracy(logits),
        bytes=size,
        milliseconds_1=latency(module, inputs, 1),
        milliseconds_64=latency(module, inputs, LATENCY_BATCH),
        teacher_agreement=reference.teacher_agreement(logits),
        difference=gap / scale if gap == gap else float("inf"),
        agreement=reference.alike(logits, reference.logits),
    )


def objection(
    figures: Figures, accuracy: float, exact: bool, tolerance: float, accuracy_drop: float, what: str, remedy: str = ""
) -> str | None:
    """Why a file is not usable; None where it is.

    Args:
        figures: Of the file.
        accuracy: What the student has in PyTorch.
        exact: Whether its answers must be PyTorch's, or only as accurate.
        tolerance: Largest ``difference`` of an exact one.
        accuracy_drop: Largest loss of accuracy of another, in [0, 1].
        what: What ``accuracy`` is, in words.
        remedy: A sentence that says what else may be done, with a space behind it.
    """
    if exact and not figures.difference <= tolerance:
        return (
            f"differs from PyTorch by {figures.difference:.2e} of the largest logit (export.tolerance ="
            f" {tolerance:.0e}). Raise the tolerance only if you know why."
        )
    lost = accuracy - figures.accuracy
    if not exact and lost > accuracy_drop + 1e-9:
        return (
            f"loses {100 * lost:.1f} points of {what} ({100 * accuracy:.1f} to {100 * figures.accuracy:.1f} %;"
            f" export.accuracy_drop = {accuracy_drop:g}). {remedy}Accept the loss with a"
            " larger export.accuracy_drop, or leave the format out."
        )
    return None


def _same(a: Tensor, b: Tensor) -> float:
    return float((a == b).double().mean())


class _Callable(nn.Module):
    """A function as a module, to be timed as one."""

    def __init__(self, run: Callable[[Inputs], Tensor]) -> None:
        super().__init__()
        self._run = run

    def forward(self, image: Tensor | None = None, **named: Tensor) -> Tensor:
        """As the function."""
        return self._run(named if image is None else image)
