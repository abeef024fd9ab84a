"""Texts with their targets, as a pool to be split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kd_lightning.data.arrays import fingerprint
from kd_lightning.data.targets import IGNORE, TAGS, find_target
from kd_lightning.data.text.texts import Texts, content_hash, in_chunks, pick, take
from kd_lightning.tasks.base import Task


@dataclass(frozen=True)
class Samples:
    """Texts with targets.

    Attributes:
        texts: The texts.
        targets: (N, ...) of samples, of the task's kind; all unknown where a sample has none of its own.
        strata: (N,) int64, what the split is stratified by.
        tags: Classes of the words of each text, where they are what is told.
        class_names: One a class.
        fingerprint: Hash of the content.
        known: Which samples have a target, (N,) bool.
        left_out: Samples of official splits without a single target, by split: they are in no split.
    """

    texts: Texts
    targets: Tensor
    strata: Tensor
    tags: list[list[int]] | None
    class_names: tuple[str, ...]
    fingerprint: str
    known: Tensor
    left_out: dict[str, int]

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


def label_samples(texts: Texts, task: Task) -> Samples:
    """Targets for a task. An official split without a single target is left out: nothing can be measured on it.

    Raises:
        ValueError: The task needs labels that are not there or cannot be read.
    """
    kind = find_target(task.target)
    targets, tags, names = kind.none(len(texts)), None, tuple[str, ...]()
    known = torch.ones(len(texts), dtype=torch.bool)
    if kind.column is not None:
        labels = list(in_chunks(_needed(texts, kind.column, task)))
        if kind is TAGS:
            _needed(texts, "words", task)
            tags, names = kind.read(labels, texts.class_names)
            known = torch.tensor([any(tag != IGNORE for tag in sentence) for sentence in tags])
        else:
            targets, names = kind.read(labels, texts.class_names)
            kind.check(targets)
            known = kind.known(targets)
    texts, kept, left_out = _with_targets(texts, known)
    tags = None if tags is None else pick(tags, kept)
    print_of = fingerprint(content_hash(texts), task.name)
    targets, known = targets[kept], known[kept]
    return Samples(texts, targets, kind.strata(targets), tags, names, print_of, known, left_out)


def _with_targets(texts: Texts, known: Tensor) -> tuple[Texts, Tensor, dict[str, int]]:
    """The texts without official splits of which no sample has a target; which they are; and what was left out."""
    held = {"validation": texts.validation, "test": texts.test}
    hidden = {
        name: positions
        for name, positions in held.items()
        if positions is not None and len(positions) and not bool(known[positions].any())
    }
    kept = torch.ones(len(texts), dtype=torch.bool)
    for positions in hidden.values():
        kept[positions] = False
    order = kept.nonzero().squeeze(1)
    if not hidden:
        return texts, order, {}
    rest = take(texts, order)
    for name in hidden:
        rest = replace(rest, test=None) if name == "test" else replace(rest, validation=None)
    return rest, order, {name: len(positions) for name, positions in hidden.items()}


def _needed(texts: Texts, name: str, task: Task) -> Sequence[Any]:
    column: Sequence[Any] | None = getattr(texts, name)
    if column is None:
        raise ValueError(
            f"data.task={task} needs the column '{name}', which this source does not give;"
            f" set data.source.{name}=<column>, or another data.task."
        )
    return column
