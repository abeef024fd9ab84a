"""How often each class occurs, said before anything is trained; and what cannot be learnt or judged is refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kd_lightning.data.targets import Target

log = logging.getLogger(__name__)

SHOWN = 12
"""So many classes are counted one by one, and named of those that are missing."""


def tell_classes(
    name: str, kind: Target, targets: Mapping[str, Tensor], names: Sequence[str], official: Sequence[str]
) -> None:
    """Say how often each class occurs in training, and how many samples have none.

    Args:
        name: What the data is called.
        kind: Of the targets.
        targets: By split, ``train`` first: (n,), or (n, T) where every token has one; empty where there is none.
        names: One a class.
        official: Splits that the data itself has.

    Raises:
        ValueError: There is one class only, or a class of an official split never occurs in training.
    """
    if len(names) < 2:
        raise ValueError(
            f"{name} has one class only ('{', '.join(names)}'): there is nothing to tell apart. Check what the labels"
            " are read from (data.source)."
        )
    counts = {split: torch.bincount(one[kind.known(one)], minlength=len(names)) for split, one in targets.items()}
    log.info("%s: of each class in training: %s", name, count_classes(counts["train"], names))
    for split, found in counts.items():
        unknown = (found > 0) & (counts["train"] == 0)
        if split == "train" or not bool(unknown.any()):
            continue
        strange = [names[i] for i in unknown.nonzero().squeeze(1).tolist()]
        listed = ", ".join(strange[:SHOWN]) + (f" and {len(strange) - SHOWN} more" if len(strange) > SHOWN else "")
        what = f"{name}: the {split} split has classes that never occur in training: {listed}"
        if split in official and kind.each == "sample":
            raise ValueError(
                f"{what}. No student can learn them: leave their samples out of it, or add some to training. If such a"
                " label says that there is none, set data.source.missing."
            )
        log.warning("%s. No student can learn them; every class needs several samples.", what)


def count_classes(counts: Tensor, names: Sequence[str]) -> str:
    """Counts (C,) of the classes in words.

    >>> count_classes(torch.tensor([3, 1]), ("cat", "dog"))
    'cat 3, dog 1'
    """
    if len(names) <= SHOWN:
        return ", ".join(f"{one} {count}" for one, count in zip(names, counts.tolist(), strict=True))
    least, most = int(counts.argmin()), int(counts.argmax())
    return f"{counts[least]} ({names[least]}) to {counts[most]} ({names[most]}), {len(names)} classes"


def unlabelled(kind: Target, targets: Mapping[str, Tensor]) -> str:
    """How many samples have no target, by split; empty where all have one.

    >>> from kd_lightning.data.targets import CLASSES
    >>> unlabelled(CLASSES, {"train": torch.tensor([0, -100, 1]), "test": torch.tensor([1])})
    'without label: 1 of 3 train'
    """
    found = []
    for split, one in targets.items():
        known = kind.known(one)
        known = known.any(1) if known.ndim > 1 else known
        if none := int((~known).sum()):
            found.append(f"{none} of {len(known)} {split}")
    return f"without label: {', '.join(found)}" if found else ""
