"""Corruptions of test images: noise, blur and shift, the same for every network and every time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.measures.probe import Probe, Subject
from kd_lightning.measures.score import Measure

CORRUPTED = 2000  # test samples that are corrupted
# Kind -> strengths, from mild to hard.
STRENGTHS: dict[str, tuple[float, ...]] = {
    "noise": (0.1, 0.2, 0.4),  # standard deviation of Gaussian noise, as a share of the range of values
    "blur": (0.5, 1.0, 2.0),  # standard deviation of a Gaussian blur, in pixels; in 1/64 of the side of larger images
    "shift": (0.125, 0.25, 0.375),  # as a share of the side; the edge is repeated
}
UNITS = {
    "noise": "deviation (% of the range)",
    "blur": "deviation (pixels)",
    "shift": "distance (% of the side)",
}
SCALE = {"noise": 100.0, "blur": 1.0, "shift": 100.0}  # from a strength to the number in its unit


def corrupt(images: Tensor, kind: str, strength: float, first: int = 0) -> Tensor:
    """Corrupted copies of images; a sample looks the same in any batch.

    Args:
        images: (B, C, H, W) in [0, 1].
        kind: 'noise', 'blur' or 'shift'.
        strength: see `STRENGTHS`; 0 leaves the images as they are.
        first: number of the first image, which with the kind and strength decides its noise and its direction.

    Returns:
        (B, C, H, W) float32 in [0, 1].

    Raises:
        ValueError: an unknown kind, a negative strength, or other than images.
    """
    kinds: dict[str, Callable[[Tensor, float, int], Tensor]] = {"noise": _noise, "blur": _blur, "shift": _shift}
    if kind not in kinds:
        raise ValueError(f"Unknown corruption {kind!r}: choose {', '.join(kinds)}.")
    if strength < 0 or images.ndim != 4:
        raise ValueError(
            f"Corrupting needs images (B, C, H, W) and a strength of at least 0, got {tuple(images.shape)}, {strength}."
        )
    images = images.float()
    return images if strength == 0 or not len(images) else kinds[kind](images, strength, first).clamp(0, 1)


def corruptions() -> Iterator[tuple[str, float]]:
    """Every kind with every strength."""
    for kind, strengths in STRENGTHS.items():
        for strength in strengths:
            yield kind, strength


def _noise(images: Tensor, strength: float, first: int) -> Tensor:
    generator = torch.Generator()
    noise = torch.stack([_draw(images[0].shape, generator, first + i) for i in range(len(images))])
    return images + strength * noise.to(images.device)


def _draw(shape: torch.Size, generator: torch.Generator, number: int) -> Tensor:
    return torch.randn(shape, generator=generator.manual_seed(number))


def _blur(images: Tensor, strength: float, first: int) -> Tensor:
    sigma = strength * max(1.0, min(images.shape[-2:]) / 64)
    reach = math.ceil(3 * sigma)
    taps = torch.arange(-reach, reach + 1, dtype=torch.float32, device=images.device)
    weights = (-(taps**2) / (2 * sigma**2)).exp()
    weights = weights / weights.sum()
    channels = images.shape[1]
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, weights.expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, weights[:, None].expand(channels, 1, -1, 1), groups=channels)


def _shift(images: Tensor, strength: float, first: int) -> Tensor:
    """Right, down, left and up in turn."""
    height, width = images.shape[-2:]
    down, right = max(1, round(strength * height)), max(1, round(strength * width))
    moves = [(0, right), (down, 0), (0, -right), (-down, 0)]
    result = torch.empty_like(images)
    for turn, (dy, dx) in enumerate(moves):
        rows = (torch.arange(first, first + len(images)) % 4 == turn).nonzero().flatten()
        ys = (torch.arange(height) - dy).clamp(0, height - 1)
        xs = (torch.arange(width) - dx).clamp(0, width - 1)
        result[rows] = images[rows][:, :, ys][:, :, :, xs]
    return result


def accuracies(subject: Subject) -> dict[str, list[float]]:
    """Accuracy as the images are (``clean``) and under every corruption, strongest last; of samples with a class."""
    right, count = dict.fromkeys([("clean", 0.0), *corruptions()], 0), 0
    for batch in subject.pictures(CORRUPTED):
        images, targets, first = batch["image"], batch["target"], int(batch["index"][0])
        for kind, strength in right:
            seen = images if kind == "clean" else corrupt(images, kind, strength, first)
            answer = subject.answer({"image": subject.normalise(seen)}).argmax(1)
            right[kind, strength] += int((answer == targets).sum())
        count += len(targets)
    result: dict[str, list[float]] = {}
    for (kind, _), found in right.items():
        result.setdefault(kind, []).append(found / max(count, 1))
    return result


def mean_accuracy(values: dict[str, list[float]]) -> dict[str, float]:
    """``corrupted_top1``: the mean over all corruptions."""
    every = [value for kind, strengths in values.items() if kind != "clean" for value in strengths]
    return {"corrupted_top1": sum(every) / len(every)} if every else {}


ROBUSTNESS = Probe(
    "robustness",
    "the robustness",
    accuracies,
    mean_accuracy,
    (Measure("corrupted_top1", "Corrupted top-1"),),
    takes=("images",),
    of_classes=True,
    settings=(STRENGTHS, CORRUPTED),
)
