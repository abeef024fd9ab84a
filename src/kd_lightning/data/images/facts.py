"""What is found out about the data before anything is built: classes, channels, size, mean and deviation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kd_lightning.data.arrays import Arrays, Inputs, take
from kd_lightning.data.images.preprocess import Size, as_size, to_float


@dataclass(frozen=True)
class Facts:
    """Classes and the shape of a sample.

    Args:
        num_classes: Number of classes.
        channels: Channels of an image, width of a feature vector.
        image_size: Height and width, one number where they are equal; None for feature vectors.
        class_names: One a class.
    """

    num_classes: int
    channels: int
    image_size: int | Size | None
    class_names: tuple[str, ...]


def find_facts(arrays: Arrays, num_classes: int | None) -> Facts:
    """Read the facts off the data.

    Args:
        arrays: The data.
        num_classes: Configured number of classes, which may exceed those found where the source has no names.

    Raises:
        ValueError: The samples have a shape that is neither features nor an image, or a target has no name.
    """
    shape = tuple(arrays.inputs.shape[1:])
    if len(shape) not in (1, 3):
        raise ValueError(f"A sample must be (D,) or (C, H, W), got {shape}.")
    size = None if len(shape) == 1 else shape[1] if shape[1] == shape[2] else (shape[1], shape[2])
    if arrays.kind.width is not None:
        return Facts(arrays.kind.width, shape[0], size, ())
    classes = int(arrays.targets.max()) + 1
    names = arrays.class_names
    if names is None:
        if num_classes is None:
            _check_numbers(arrays.targets)
        names = tuple(str(i) for i in range(max(classes, num_classes or 0, 1)))
    if classes > len(names):
        raise ValueError(f"A target is {classes - 1}, but there are only {len(names)} classes.")
    return Facts(len(names), shape[0], size, names)


def _check_numbers(targets: Tensor) -> None:
    """Refuse classes of which nearly all numbers never occur: they are no numbers of classes.

    Raises:
        ValueError: With how many occur, and up to which number.
    """
    found = torch.unique(targets[targets >= 0])
    classes = int(found[-1]) + 1 if len(found) else 0
    if classes > 10 * len(found) and classes > 100:
        raise ValueError(
            f"Targets go up to {classes - 1}, which would be {classes} classes, but only {len(found)} different ones"
            f" occur. Number the classes from 0, without gaps, or set data.num_classes={classes}."
        )


def check_facts(
    facts: Facts, *, num_classes: int | None, channels: int | None, image_size: int | Size | None, name: str
) -> None:
    """Compare with the configuration, where None stands for whatever is found.

    Raises:
        ValueError: They differ.
    """
    wanted = {"num_classes": num_classes, "channels": channels, "image_size": image_size}
    for key, value in wanted.items():
        found = getattr(facts, key)
        same = value == found or (found is not None and key == "image_size" and as_size(value or 0) == as_size(found))
        if value is not None and not same:
            raise ValueError(f"data.{key}={value}, but {name} has {found}; set it to that, or to null to take it over.")


def chunks(positions: Tensor, size: int) -> Iterator[Tensor]:
    """``positions`` in pieces of at most ``size``."""
    return (positions[start : start + size] for start in range(0, len(positions), size))


def measure(inputs: Inputs, positions: Tensor, limit: int = 2048) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel over samples; a constant channel gets the deviation 1.

    Args:
        inputs: The pool.
        positions: Samples to look at, (n,) int64.
        limit: Images that are read from files are many: at most so many of them, evenly spread.
    """
    if not isinstance(inputs, Tensor) and len(positions) > limit:
        positions = positions[torch.linspace(0, len(positions) - 1, limit).long()]
    mean, square, count = torch.zeros(()), torch.zeros(()), 0
    for chunk in chunks(positions, 256):
        values = to_float(take(inputs, chunk)).double().transpose(0, 1).flatten(1)
        size = values.shape[1]
        # Chan et al., 1979: combining means and squared deviations does not cancel as the sum of squares does.
        step = values.mean(1) - mean
        square = square + (values - values.mean(1, keepdim=True)).square().sum(1)
        square = square + step.square() * count * size / (count + size)
        mean, count = mean + step * size / (count + size), count + size
    std = (square / count).sqrt()
    std = torch.where(std <= 1e-6 * mean.abs(), torch.ones_like(std), std)
    return tuple(mean.tolist()), tuple(std.tolist())


def check_statistics(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Refuse statistics that cannot normalise.

    Raises:
        ValueError: Not one value a channel, or a deviation that is not positive.
    """
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ValueError(
            f"data.mean={list(mean)} and data.std={list(std)} must have one value for each of the {channels} "
            "channels, and std must be above 0."
        )
