"""Layers between the shapes of student and teacher that several losses train."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

# A valid convolution that bridges 56 and 14 pixels would have a 43 by 43 kernel: beyond this side we pool instead.
_LARGEST_KERNEL = 9


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


def conv1x1(student: Tensor, teacher: Tensor, bias: bool = False) -> nn.Module:
    """1x1 convolution from the student's to the teacher's channels; the identity where they agree."""
    if student.shape[1] == teacher.shape[1]:
        return nn.Identity()
    return to_like(nn.Conv2d(student.shape[1], teacher.shape[1], 1, bias=bias), student)


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
