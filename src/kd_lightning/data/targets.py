"""Kinds of target: how each is read from labels, checked, told apart from none, and stratified, in every modality."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kd_lightning.tasks.registry import find_task

IGNORE = -100
"""Target of a sample that losses and metrics leave out."""

Read = Callable[[Sequence[Any], tuple[str, ...] | None], tuple[Any, tuple[str, ...]]]
"""Labels as they were found and the names of the classes where they are given -> targets and names."""


@dataclass(frozen=True)
class Target:
    """A kind of target.

    Attributes:
        name: A task names its kind by it.
        column: The column of a table that it is read from; None where it is made of the sample, or there is none.
        each: What has one of its own: ``sample``, ``token``, or ``nothing``.
        read: Makes targets of labels: of samples (N, ...), of tokens a list of lists.
        width: Numbers of an answer, where the kind itself decides that; None: as many as there are names.
        dtype: Of the targets.
        problem_type: What transformers calls it, for its losses; None where it has no word.
    """

    name: str
    column: str | None = None
    each: str = "sample"
    read: Read = lambda labels, names: (None, ())
    width: int | None = None
    dtype: torch.dtype = torch.int64
    problem_type: str | None = None

    def check(self, targets: Tensor) -> None:
        """Refuse targets of samples that are not of this kind.

        Raises:
            ValueError: Another type or shape, or classes that are negative.
        """
        if targets.dtype != self.dtype or targets.ndim != 1:
            kind = str(self.dtype).removeprefix("torch.")
            raise ValueError(f"Targets must be {kind} (N,), got {targets.dtype} {tuple(targets.shape)}.")
        wrong = (targets < 0) & (targets != IGNORE)
        if not targets.is_floating_point() and wrong.any():
            first = targets[wrong][0].item()
            raise ValueError(
                f"{int(wrong.sum())} targets are negative (such as {first}); classes count from 0, and {IGNORE} stands"
                " for a sample without one."
            )

    def known(self, targets: Tensor) -> Tensor:
        """Which samples have a target, (N,) bool."""
        return targets.isfinite() if targets.is_floating_point() else targets != IGNORE

    def strata(self, targets: Tensor) -> Tensor:
        """What samples are split evenly by, (N,) int64: their classes; one stratum where there are none."""
        if targets.is_floating_point():
            return torch.full(targets.shape[:1], IGNORE)
        return targets

    def none(self, samples: int) -> Tensor:
        """Targets of so many samples that have none."""
        return torch.full((samples,), math.nan if self.dtype.is_floating_point else IGNORE, dtype=self.dtype)


def find_target(name: str) -> Target:
    """The kind of a name, as a task says it.

    Raises:
        ValueError: There is none.
    """
    if name not in TARGETS:
        raise ValueError(f"There is no kind of target '{name}'; there are {', '.join(TARGETS)}.")
    return TARGETS[name]


def target_of(task: str) -> Target:
    """The kind of target of a task, by the task's name."""
    return find_target(find_task(task).target)


# -- reading ---------------------------------------------------------------------------------------------------------


def _classes(labels: Sequence[Any], names: tuple[str, ...] | None) -> tuple[Tensor, tuple[str, ...]]:
    found = class_names(labels, names)
    return torch.tensor(class_numbers(labels, found, names), dtype=torch.int64), found


def _values(labels: Sequence[Any], names: tuple[str, ...] | None) -> tuple[Tensor, tuple[str, ...]]:
    return torch.tensor([_number(value) for value in labels], dtype=torch.float32), ()


def _tags(labels: Sequence[Any], names: tuple[str, ...] | None) -> tuple[list[list[int]], tuple[str, ...]]:
    # In lists of classes -100 says everywhere that a word has none.
    told = [[None if tag == IGNORE else tag for tag in sentence] for sentence in labels]
    found = class_names([tag for sentence in told for tag in sentence], names)
    return [class_numbers(sentence, found, names) for sentence in told], found


def class_names(labels: Iterable[Any], given: tuple[str, ...] | None) -> tuple[str, ...]:
    """The classes: as given, or every label that occurs, in order of value.

    Raises:
        ValueError: No sample has a label, or a label is a list or a number that is not whole.
    """
    if given is not None:
        return given
    found = {_name(label): label for label in labels if not _missing(label)}
    if not found:
        raise ValueError("No sample has a label. For text without labels take data.task=embedding or a language model.")
    if all(isinstance(label, (int, float)) for label in found.values()):
        return tuple(sorted(found, key=found.__getitem__))
    return tuple(sorted(found))


def class_numbers(labels: Sequence[Any], names: tuple[str, ...], given: tuple[str, ...] | None) -> list[int]:
    """Class numbers of labels: by name, or where the names were given, whole numbers as they are.

    Raises:
        ValueError: A label is none of the classes.
    """
    place = {name: number for number, name in enumerate(names)}
    numbers = []
    for label in labels:
        if _missing(label):
            numbers.append(IGNORE)
            continue
        name = _name(label)
        number = int(label) if given is not None and isinstance(label, (int, float)) else place.get(name, -1)
        if not 0 <= number < len(names):
            counted = f", numbered from 0: {', '.join(names[:8])}" if given is not None else ""
            raise ValueError(
                f"The label {label!r} is none of the {len(names)} classes{counted}. If it says that there is no label,"
                f" set data.source.missing={label}."
            )
        numbers.append(number)
    return numbers


def without(labels: Iterable[Any], missing: Any) -> list[Any]:
    """Labels, or lists of them, with None for those that are ``missing``: a value, a list of values, or None."""
    if missing is None:
        return list(labels)
    values = list(missing) if isinstance(missing, (list, tuple)) else [missing]
    said = {str(value) for value in values}  # -1 is meant, whether the column holds numbers or texts

    def one(label: Any) -> Any:
        if isinstance(label, (list, tuple)):
            return [one(part) for part in label]
        return None if str(label) in said or (isinstance(label, float) and label in values) else label

    return [one(label) for label in labels]


def _missing(value: Any) -> bool:
    """Whether a label says that there is none: an empty cell. What else does, the user says to the source."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _name(label: Any) -> str:
    if isinstance(label, (list, tuple, dict, set)):
        raise ValueError(
            f"A label is a {type(label).__name__} ({label!r:.60}), but data.task=classification takes one class a"
            " sample: give one label, or set data.source.words and data.source.tags for a class of every word"
            " (data.task=token_classification)."
        )
    if not isinstance(label, float):
        return str(label)
    if not label.is_integer():
        raise ValueError(f"Labels such as {label} are no classes; for numbers set data.task=regression.")
    return str(int(label))


def _number(value: Any) -> float:
    if _missing(value):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"data.task=regression needs numbers, but a label is {value!r}.") from None


# -- the kinds -------------------------------------------------------------------------------------------------------

CLASSES = Target("classes", "label", read=_classes, problem_type="single_label_classification")
VALUES = Target("values", "label", read=_values, width=1, dtype=torch.float32, problem_type="regression")
TAGS = Target("tags", "tags", "token", _tags)
NEXT_TOKENS = Target("next_tokens", each="token")
MASKED_TOKENS = Target("masked_tokens", each="token")
NOTHING = Target("nothing", each="nothing")

TARGETS = {kind.name: kind for kind in (CLASSES, VALUES, TAGS, NEXT_TOKENS, MASKED_TOKENS, NOTHING)}
