"""From labels as they were found to targets: classes, numbers, or classes of words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kd_lightning.data.arrays import IGNORE, fingerprint
from kd_lightning.data.text.texts import Texts, content_hash, in_chunks


@dataclass(frozen=True)
class Samples:
    """Texts with targets, as a pool to be split.

    Attributes:
        texts: The texts.
        targets: (N,) int64 classes, -100 where there is none; what the split is stratified by.
        values: (N,) float32 numbers of a regression, nan where there is none; else None.
        tags: Classes of the words of each text, for token_classification.
        class_names: One a class.
        fingerprint: Hash of the content.
    """

    texts: Texts
    targets: Tensor
    values: Tensor | None
    tags: list[list[int]] | None
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def test(self) -> Tensor | None:
        """Positions of the official test split."""
        return self.texts.test

    @property
    def validation(self) -> Tensor | None:
        """Positions of the official validation split."""
        return self.texts.validation

    @property
    def free(self) -> Tensor:
        """Positions that no official split holds, ascending."""
        mask = torch.ones(len(self.texts), dtype=torch.bool)
        for held in (self.test, self.validation):
            if held is not None:
                mask[held] = False
        return mask.nonzero().squeeze(1)

    @property
    def answers(self) -> Tensor:
        """Classes, or values where the targets are values, (n,)."""
        return self.targets if self.values is None else self.values


def label_samples(texts: Texts, task: str) -> Samples:
    """Targets for a task.

    Raises:
        ValueError: The task needs labels that are not there or cannot be read.
    """
    targets = torch.full((len(texts),), IGNORE, dtype=torch.int64)
    values, tags = None, None
    names: tuple[str, ...] = ()
    if task == "classification":
        names = class_names(_needed(texts.label, task, "label"), texts.class_names)
        targets = torch.tensor(_numbers(texts.label or (), names, texts.class_names), dtype=torch.int64)
    elif task == "regression":
        values = torch.tensor([_number(value) for value in _needed(texts.label, task, "label")], dtype=torch.float32)
    elif task == "token_classification":
        found = list(in_chunks(_needed(texts.tags, task, "tags")))
        _needed(texts.words, task, "words")
        names = class_names([tag for sentence in found for tag in sentence], texts.class_names)
        tags = [_numbers(sentence, names, texts.class_names) for sentence in found]
    return Samples(texts, targets, values, tags, names, fingerprint(content_hash(texts), task))


def _needed(column: Sequence[Any] | None, task: str, name: str) -> Sequence[Any]:
    if column is None:
        raise ValueError(
            f"data.task={task} needs the column '{name}', which this source does not give;"
            f" set data.source.{name}=<column>, or another data.task."
        )
    return column


def _missing(value: Any) -> bool:
    """Whether a label says that there is none."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, (int, float)) and value < 0


def class_names(labels: Iterable[Any], given: tuple[str, ...] | None) -> tuple[str, ...]:
    """The classes: as given, or every label that occurs, in order of value.

    Raises:
        ValueError: No sample has a label, or a label is a number that is not whole.
    """
    if given is not None:
        return given
    found = {label for label in in_chunks(list(labels)) if not _missing(label)}
    if not found:
        raise ValueError("No sample has a label. For text without labels take data.task=embedding or a language model.")
    if broken := [label for label in found if isinstance(label, float) and label != int(label)]:
        raise ValueError(f"Labels such as {broken[0]} are no classes; for numbers set data.task=regression.")
    numeric = all(isinstance(label, (int, float)) for label in found)
    return tuple(_name(label) for label in (sorted(found) if numeric else sorted(found, key=str)))


def _name(label: Any) -> str:
    return str(int(label)) if isinstance(label, float) else str(label)


def _numbers(labels: Sequence[Any], names: tuple[str, ...], given: tuple[str, ...] | None) -> list[int]:
    """Class numbers of labels: by name, or where the names were given, integers as they are."""
    place = {name: number for number, name in enumerate(names)}
    numbers = []
    for label in in_chunks(labels):
        if _missing(label):
            numbers.append(IGNORE)
        elif given is not None and isinstance(label, int):
            numbers.append(int(label))
        elif _name(label) in place:
            numbers.append(place[_name(label)])
        else:
            raise ValueError(f"The label {label!r} is none of the classes {', '.join(names)}.")
    if numbers and max(numbers) >= len(names):
        raise ValueError(f"A label is {max(numbers)}, but there are only {len(names)} classes.")
    return numbers


def _number(value: Any) -> float:
    if value is None or value == "":
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"data.task=regression needs numbers, but a label is {value!r}.") from None
