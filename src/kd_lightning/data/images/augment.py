"""Augmentation of a whole batch on its device, the same for a sample whatever batch it is in.

An op takes float images (B, C, H, W) in [0, 1] and ``random``, where ``random(k)`` gives the k-th number in [0, 1)
of every sample, (B,) float32. It must use nothing else that is random, nor mix samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.data.counter import fold, uniform

Random = Callable[[int], Tensor]


class Op(Protocol):
    """One step of an augmentation."""

    def __call__(self, images: Tensor, random: Random) -> Tensor: ...


class Augmentation:
    """Ops in a row, every one with random numbers of its own.

    Args:
        ops: In the order in which they run.
        seed: Another seed is another augmentation.
    """

    def __init__(self, ops: Sequence[Op], seed: int) -> None:
        self.ops, self.seed = tuple(ops), seed

    def __call__(self, images: Tensor, index: Tensor, view: int | Tensor) -> Tensor:
        """Augment.

        Args:
            images: (B, C, H, W) float in [0, 1].
            index: Which samples they are, (B,) int64.
            view: Which look at them, such as the epoch: one for all, or (B,) int64.
        """
        for place, op in enumerate(self.ops):
            seed = int(fold(self.seed, place))
            images = op(images, functools.partial(uniform, seed, view, index))
        return images


def check_ops(ops: Sequence[Op], channels: int, height: int, width: int, key: str) -> None:
    """Try each op on two grey pictures, one after the other as in training.

    Args:
        ops: Ops of ``data.augment`` or ``data.strong``.
        channels, height, width: Of a picture.
        key: Which of the two, for messages.

    Raises:
        ValueError: One cannot be called as an op, does not fit, gives no such pictures, or draws random numbers of its
            own.
    """
    images = torch.full((2, channels, height, width), 0.5)
    index = torch.arange(2)
    known = ", ".join(kind.__name__ for kind in OPS)
    for op in ops:
        before, state = images, torch.get_rng_state()
        name = f"data.{key}: {type(op).__module__}.{type(op).__qualname__}"
        try:
            images = op(images, functools.partial(uniform, 0, 0, index))
        except TypeError as error:
            raise ValueError(
                f"{name} is no op ({error}). An op takes (images, random), so that a picture looks the same in every"
                f" run; transforms of torchvision are none. There are {known} in kd_lightning.data.images.augment."
            ) from error
        except RuntimeError as error:
            raise ValueError(f"{name} does not fit pictures of {height} x {width} pixels: {error}") from error
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[:2] != before.shape[:2]:
            found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(
                f"{name} is no op: of pictures {tuple(before.shape)} it makes {found}. An op takes (images, random) and"
                f" gives the images; transforms of torchvision are none. There are {known}."
            )
        if not torch.equal(state, torch.get_rng_state()):
            raise ValueError(
                f"{name} draws random numbers of its own; an op uses `random` alone, so that a picture looks the same"
                f" in every run. There are {known} in kd_lightning.data.images.augment."
            )


@dataclass(frozen=True)
class RandomCrop:
    """Pad every side and cut the original size out at a random place.

    Args:
        padding: Pixels a side.
        mode: ``zero`` (black) or ``reflect``.
    """

    padding: int = 4
    mode: str = "zero"

    def __post_init__(self) -> None:
        if self.mode not in ("zero", "reflect"):
            raise ValueError(f"RandomCrop.mode must be 'zero' or 'reflect', got '{self.mode}'.")
        _at_least("RandomCrop.padding", self.padding, 0)

    def __call__(self, images: Tensor, random: Random) -> Tensor:
        height, width = images.shape[2:]
        padded = F.pad(images, [self.padding] * 4, mode="constant" if self.mode == "zero" else self.mode)
        places = 2 * self.padding + 1
        top, left = (random(0) * places).long(), (random(1) * places).long()
        # Every place as a view of its own: one index per sample then copies whole rows.
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        return windows[torch.arange(len(images), device=images.device), :, top, left]


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror left and right.

    Args:
        p: Probability.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        _at_least("HorizontalFlip.p", self.p, 0, 1)

    def __call__(self, images: Tensor, random: Random) -> Tensor:
        return torch.where((random(0) < self.p)[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class RandomAffine:
    """Rotate and scale about the centre, then shift; bilinear, black outside.

    Args:
        degrees: Largest rotation either way.
        translate: Largest shift either way, as a share of the height or width.
        scale: Smallest and largest magnification.
    """

    degrees: float = 10.0
    translate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        _at_least("RandomAffine.degrees", self.degrees, 0)
        _at_least("RandomAffine.translate", self.translate, 0)
        _range("RandomAffine.scale", self.scale)

    def __call__(self, images: Tensor, random: Random) -> Tensor:
        height, width = images.shape[2:]
        angle = (random(0) * 2 - 1) * math.radians(self.degrees)
        shift_x = (random(1) * 2 - 1) * self.translate * width
        shift_y = (random(2) * 2 - 1) * self.translate * height
        size = self.scale[0] + random(3) * (self.scale[1] - self.scale[0])
        # Where an output pixel comes from: undo the shift, then the rotation and the scale. Pixels from the centre.
        x = _pixels(width, images)[None, None, :] - shift_x[:, None, None]
        y = _pixels(height, images)[None, :, None] - shift_y[:, None, None]
        cos, sin = (angle.cos() / size)[:, None, None], (angle.sin() / size)[:, None, None]
        return _sample(images, cos * x + sin * y, cos * y - sin * x)


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cut out a random part and resize it: the usual augmentation of photographs.

    A part that would stick out is narrowed to the image (torchvision tries anew). Bilinear without smoothing, so
    ``size`` should not be much smaller than the parts.

    Args:
        scale: Smallest and largest part, as a share of the area.
        ratio: Smallest and largest width by height.
        size: Height and width of the result in pixels; None for those of the image.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    size: int | None = None

    def __post_init__(self) -> None:
        _range("RandomResizedCrop.scale", self.scale)
        _range("RandomResizedCrop.ratio", self.ratio)
        _at_least("RandomResizedCrop.scale", self.scale[1], 0, 1)

    def __call__(self, images: Tensor, random: Random) -> Tensor:
        height, width = images.shape[2:]
        out_height, out_width = (self.size, self.size) if self.size else (height, width)
        area = (self.scale[0] + random(0) * (self.scale[1] - self.scale[0])) * height * width
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = (low + random(1) * (high - low)).exp()
        part_width = (area * aspect).sqrt().clamp(max=width)
        part_height = (area / aspect).sqrt().clamp(max=height)
        centre_x = (random(2) - 0.5) * (width - part_width)
        centre_y = (random(3) - 0.5) * (height - part_height)
        x = centre_x[:, None] + part_width[:, None] * _pixels(out_width, images) / out_width
        y = centre_y[:, None] + part_height[:, None] * _pixels(out_height, images) / out_height
        shape = (len(images), out_height, out_width)
        return _sample(images, x[:, None, :].expand(shape), y[:, :, None].expand(shape), padding="border")


@dataclass(frozen=True)
class Cutout:
    """Grey out a square at a random place; it may reach over the border (DeVries and Taylor, 2017).

    Args:
        size: Side in pixels.
        fill: Value that it gets; the middle grey is near the mean, which is 0 after normalisation.
    """

    size: int = 8
    fill: float = 0.5

    def __post_init__(self) -> None:
        _at_least("Cutout.size", self.size, 1)

    def __call__(self, images: Tensor, random: Random) -> Tensor:
        height, width = images.shape[2:]
        top = (random(0) * height).long() - self.size // 2
        left = (random(1) * width).long() - self.size // 2
        row = torch.arange(height, device=images.device)[None, :] - top[:, None]
        column = torch.arange(width, device=images.device)[None, :] - left[:, None]
        inside = _within(row, self.size)[:, None, :, None] & _within(column, self.size)[:, None, None, :]
        return images.masked_fill(inside, self.fill)


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast and saturation, in this order, by random factors.

    Args:
        brightness: The factor is in [1 - brightness, 1 + brightness]; the others alike.
        contrast: Towards or away from the mean grey of the image.
        saturation: Towards or away from the grey of the pixel; of no effect on one channel.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            _at_least(f"ColorJitter.{name}", getattr(self, name), 0, 1)

    def __call__(self, images: Tensor, random: Random) -> Tensor:
        def factor(draw: int, strength: float) -> Tensor:
            return (1 + (random(draw) * 2 - 1) * strength)[:, None, None, None]

        images = (images * factor(0, self.brightness)).clamp(0, 1)
        mean = images.mean((1, 2, 3), keepdim=True)
        images = (mean + (images - mean) * factor(1, self.contrast)).clamp(0, 1)
        grey = images.mean(1, keepdim=True)
        return (grey + (images - grey) * factor(2, self.saturation)).clamp(0, 1)


OPS = (RandomCrop, HorizontalFlip, RandomAffine, RandomResizedCrop, Cutout, ColorJitter)


def _pixels(size: int, like: Tensor) -> Tensor:
    """Centres of ``size`` pixels as distances from the middle."""
    return torch.arange(size, device=like.device, dtype=torch.float32) - (size - 1) / 2


def _sample(images: Tensor, x: Tensor, y: Tensor, padding: str = "zeros") -> Tensor:
    """Images at ``x``, ``y`` (B, h, w), in pixels from the centre."""
    height, width = images.shape[2:]
    grid = torch.stack([2 * x / width, 2 * y / height], dim=-1).to(images.dtype)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def _within(offset: Tensor, size: int) -> Tensor:
    return (offset >= 0) & (offset < size)


def _at_least(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {value}.")


def _range(name: str, value: tuple[float, float]) -> None:
    if len(value) != 2 or not 0 < value[0] <= value[1]:
        raise ValueError(f"{name} must be two positive numbers, smallest first, got {tuple(value)}.")
