"""Train, validation and test: seeded, stratified, disjoint, saved with the run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from kd_lightning.data.arrays import fingerprint
from kd_lightning.data.counter import fold_text, random_bits

NAMES = ("train", "validation", "test")
FILE_NAME = "split.safetensors"

CALLED = {
    "train": ("train", "training"),
    "validation": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
"""What people call the splits, in small letters."""


def split_called(name: str) -> str | None:
    """The split that people mean by ``name``; None where it is none.

    >>> split_called("Training"), split_called("cats")
    ('train', None)
    """
    return next((split for split, known in CALLED.items() if name.lower() in known), None)


class Pool(Protocol):
    """All samples of a data set, as far as splitting them is concerned; see ``Arrays``."""

    @property
    def strata(self) -> Tensor: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def test(self) -> Tensor | None: ...
    @property
    def validation(self) -> Tensor | None: ...
    @property
    def free(self) -> Tensor: ...


@dataclass(frozen=True)
class Split:
    """Positions in the pool of a source, ascending and disjoint, (n,) int64 each; empty where there is none."""

    train: Tensor
    validation: Tensor
    test: Tensor
    data_fingerprint: str

    def __getitem__(self, name: str) -> Tensor:
        if name not in NAMES:
            raise ValueError(f"No split '{name}'; there are {', '.join(NAMES)}.")
        positions: Tensor = getattr(self, name)
        return positions

    @property
    def fingerprint(self) -> str:
        """Hash of the data and of who is in which split: what a cache keyed by ``index`` belongs to."""
        return fingerprint(self.data_fingerprint, self.train, self.validation, self.test)

    def save(self, folder: str | Path) -> Path:
        """Write ``split.safetensors`` into ``folder``; gives its path."""
        from safetensors.torch import save_file

        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{FILE_NAME}.{os.getpid()}.part")
        tensors = {name: self[name].contiguous() for name in NAMES}
        save_file(tensors, partial, metadata={"data_fingerprint": self.data_fingerprint})
        os.replace(partial, path)
        return path


def load_split(path: str | Path, arrays: Pool) -> Split:
    """Read a saved split for these data.

    Args:
        path: ``split.safetensors``, or the folder that holds it.
        arrays: The data to be split.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a split, or the split of other data.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"No split at {path}; give a {FILE_NAME} from a run folder or remove data.split_file.")
    try:
        with safe_open(path, framework="pt") as file:
            saved_for = (file.metadata() or {}).get("data_fingerprint")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a split saved by this framework: {error}") from error
    if set(tensors) != set(NAMES) or saved_for is None:
        raise ValueError(f"{path} is not a split saved by this framework: it holds {sorted(tensors)}.")
    if saved_for != arrays.fingerprint:
        raise ValueError(
            f"{path} was made for other data (fingerprint {saved_for[:12]}, the data here has "
            f"{arrays.fingerprint[:12]}): the data changed, or the file belongs to another data set. "
            "Remove data.split_file to split anew."
        )
    joined = torch.cat([tensors[name] for name in NAMES])
    size = len(arrays.strata)
    broken = joined.dtype != torch.int64 or joined.ndim != 1 or len(set(joined.flatten().tolist())) != joined.numel()
    if broken or not len(tensors["train"]) or joined.min() < 0 or joined.max() >= size:
        raise ValueError(f"{path} is damaged: its positions overlap, or do not fit the {size} samples.")
    return Split(**tensors, data_fingerprint=saved_for)


def default_fractions(
    arrays: Pool, val_fraction: float | None, test_fraction: float | None, name: str
) -> tuple[float, float]:
    """Shares for validation and test: as given; where None, nothing beside an official split, else 0.1 and 0.2.

    Raises:
        ValueError: A share is given and there is an official split.
    """

    def fraction(key: str, value: float | None, official: Tensor | None, default: float) -> float:
        if value and official is not None:
            raise ValueError(f"{name} has an official split; remove data.{key}={value}.")
        return (0.0 if official is not None else default) if value is None else value

    val = fraction("val_fraction", val_fraction, arrays.validation, 0.1)
    return val, fraction("test_fraction", test_fraction, arrays.test, 0.2)


def make_split(arrays: Pool, val_fraction: float, test_fraction: float, seed: int) -> Split:
    """Split what the source left free; official splits stay as they are.

    Args:
        arrays: The data.
        val_fraction: Share of the free samples for validation; must be 0 where there is an official validation split.
        test_fraction: The same for the test.
        seed: Decides who goes where.

    Raises:
        ValueError: Fractions out of range, or nothing left to train on.
    """
    if not (0 <= val_fraction < 1 and 0 <= test_fraction < 1 and val_fraction + test_fraction < 1):
        raise ValueError(
            f"val_fraction={val_fraction} and test_fraction={test_fraction} must be in [0, 1) and sum to less than 1."
        )
    free = arrays.free
    test, rest = _take(arrays.strata, free, _count(test_fraction, len(free)), fold_text(seed, "test"))
    count = _count(val_fraction, len(free))
    validation, train = _take(arrays.strata, rest, min(count, len(rest)), fold_text(seed, "validation"))
    if not len(train):
        raise ValueError(f"Nothing left to train on: {len(free)} samples, {len(test)} for the test, {count} held out.")
    return Split(
        train=train,
        validation=validation if arrays.validation is None else arrays.validation.sort().values,
        test=test if arrays.test is None else arrays.test.sort().values,
        data_fingerprint=arrays.fingerprint,
    )


def _count(fraction: float, size: int) -> int:
    return max(1, round(fraction * size)) if fraction > 0 else 0


def _take(targets: Tensor, pool: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """``count`` random samples of ``pool``, every class in proportion (to within one), and the others; ascending."""
    shuffled = pool[random_bits(seed, 0, pool).argsort(stable=True)]
    by_class = targets[shuffled].argsort(stable=True)
    sizes = torch.bincount(targets[shuffled] - targets.min())  # the smallest target may be -100
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(pool)) - starts.repeat_interleave(sizes)
    # The place of a sample within its class, in (0, 1): the first `count` places take every class evenly.
    place = torch.empty(len(pool), dtype=torch.float64)
    place[by_class] = (rank.double() + 0.5) / sizes.repeat_interleave(sizes)
    chosen = torch.zeros(len(pool), dtype=torch.bool)
    chosen[place.argsort(stable=True)[:count]] = True
    return shuffled[chosen].sort().values, shuffled[~chosen].sort().values
