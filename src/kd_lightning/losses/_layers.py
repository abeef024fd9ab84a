"""What the feature losses share: lists of maps, pairing of stages, and the regressors between two shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Maps = Tensor | Sequence[Tensor]
M = TypeVar("M", bound=nn.Module)

# A valid convolution that bridges 56 and 14 pixels would have a 43 by 43 kernel: beyond this side we pool instead.
_LARGEST_KERNEL = 9
# Before the patches of a vision transformer: a class token, a distillation token, four registers.
_EXTRA_TOKENS = (0, 1, 2, 4, 5)


def _as_map(x: Tensor, name: str) -> Tensor:
    """A map (B, C, H, W) as it is, a vector (B, D) as one pixel, tokens (B, T, D) as their square grid (B, D, H, H)."""
    if x.dim() == 4:
        return x
    if x.dim() == 2:
        return x[:, :, None, None]
    if x.dim() == 3:
        side = math.isqrt(x.shape[1])
        extra = x.shape[1] - side**2
        if extra in _EXTRA_TOKENS:
            return x[:, extra:].transpose(1, 2).reshape(len(x), x.shape[2], side, side)
    raise ValueError(
        f"{name} has shape {tuple(x.shape)}, but a map (B, C, H, W), a vector (B, D) or the tokens (B, T, D) of a"
        " square image are needed. Tap another layer."
    )


def as_maps(features: Maps, name: str) -> list[Tensor]:
    """One map or several as a list of maps (B, C, H, W).

    A vector (B, D) becomes a map of one pixel; the tokens (B, T, D) of a vision transformer become their square grid,
    without class and register tokens.

    Raises:
        ValueError: Where there is no map, or one has another shape.
    """
    maps = [features] if isinstance(features, Tensor) else list(features)
    if not maps:
        raise ValueError(f"{name} has no feature maps; name at least one layer in the term's inputs.")
    return [_as_map(x, f"{name}[{i}]") for i, x in enumerate(maps)]


def pair_maps(student: Maps, teacher: Maps) -> list[tuple[Tensor, Tensor]]:
    """Student's and teacher's maps stage by stage, the teacher's without gradient.

    Raises:
        ValueError: Where they are not equally many or differ in the batch size.
    """
    ours, theirs = as_maps(student, "student"), as_maps(teacher, "teacher")
    if len(ours) != len(theirs):
        raise ValueError(
            f"The student gives {len(ours)} feature maps and the teacher {len(theirs)}, but this loss pairs them one"
            " to one. Name the layers to pair in the term's inputs, for example"
            " student: [student.stages[0], student.stages[-1]]."
        )
    for i, (s, t) in enumerate(zip(ours, theirs, strict=True)):
        if len(s) != len(t):
            raise ValueError(f"Stage {i}: the student's batch has {len(s)} samples, the teacher's {len(t)}.")
    return [(s, t.detach()) for s, t in zip(ours, theirs, strict=True)]


def check_same_shape(student: Tensor, teacher: Tensor, stage: int) -> None:
    """Refuse two maps that would silently broadcast against each other.

    Raises:
        ValueError: Where the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"Stage {stage}: the student's map has shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)};"
            " they must be equal. The module form of the loss builds the projection between them."
        )


def check_built(modules: nn.ModuleList, stages: int) -> None:
    """Refuse a forward with more or fewer stages than ``build`` has seen.

    Raises:
        ValueError: Where they differ, also where ``build`` was never called.
    """
    if len(modules) != stages:
        seen = f"was built for {len(modules)} stages" if len(modules) else "is not built yet"
        raise ValueError(f"The loss {seen} and got {stages}: call build(...) once with example tensors of each stage.")


def to_like(module: M, example: Tensor) -> M:
    """The module on the device of ``example`` and in its precision; float32 where that is a half precision."""
    half = example.dtype in (torch.float16, torch.bfloat16)
    return module.to(example.device, torch.float32 if half else example.dtype)


class ConvRegressor(nn.Module):
    """Convolution and batch norm from the student's to the teacher's shape, as in RepDistiller's ``ConvReg``.

    Stride-2 3x3 where the student's map is twice as large, transposed stride-2 4x4 where it is half as large, a valid
    convolution that shrinks to the teacher's size otherwise. Differs from it: where that kernel would be larger than
    9, or the student's map is the smaller one on a side, a 1x1 convolution (the caller pools with ``match_spatial``).

    Args:
        student: Example of the student's map, (B, C_s, H_s, W_s).
        teacher: Example of the teacher's map, (B, C_t, H_t, W_t).
        relu: End in a ReLU.
    """

    def __init__(self, student: Tensor, teacher: Tensor, relu: bool = True) -> None:
        super().__init__()
        self.conv = self._convolution(student, teacher)
        self.bn = nn.BatchNorm2d(teacher.shape[1])
        self.relu = relu
        to_like(self, student)

    @staticmethod
    def _convolution(student: Tensor, teacher: Tensor) -> nn.Module:
        channels = (student.shape[1], teacher.shape[1])
        (h_s, w_s), (h_t, w_t) = student.shape[2:], teacher.shape[2:]
        if h_s == 2 * h_t and (w_s + 1) // 2 == w_t:
            return nn.Conv2d(*channels, kernel_size=3, stride=2, padding=1)
        if 2 * h_s == h_t and 2 * w_s == w_t:
            return nn.ConvTranspose2d(*channels, kernel_size=4, stride=2, padding=1)
        kernel = (1 + h_s - h_t, 1 + w_s - w_t)
        return nn.Conv2d(*channels, kernel_size=kernel if min(kernel) > 0 and max(kernel) <= _LARGEST_KERNEL else 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_s, H_s, W_s) to (B, C_t, H_t, W_t)."""
        x = self.bn(self.conv(x))
        return F.relu(x) if self.relu else x
