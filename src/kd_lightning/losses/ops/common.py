"""What every loss needs: full precision, masked means, equal map sizes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_HALF = (torch.float16, torch.bfloat16)


def _upcast(value: Any) -> Any:
    """Half-precision tensors as float32, also inside lists; everything else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _HALF else value
    if isinstance(value, (list, tuple)):
        return type(value)(_upcast(v) for v in value)
    return value


def _device_type(values: Any) -> str:
    """Device type of the first tensor found."""
    for value in values:
        if isinstance(value, Tensor):
            return value.device.type
        if isinstance(value, (list, tuple)) and value:
            return _device_type(value)
    return "cpu"


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run a loss in float32 under mixed precision; float64 inputs stay float64.

    Half-precision tensor arguments are upcast and autocast is off inside, so softmaxes, norms and Gram
    matrices are never computed in bf16. The gradient arrives in the dtype of the argument.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        device_type = _device_type((*args, *kwargs.values()))
        with torch.autocast(device_type, enabled=False):
            return function(*_upcast(args), **{k: _upcast(v) for k, v in kwargs.items()})

    return wrapper


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``values`` over the positions where ``mask`` is true; 0 where no position is valid.

    Args:
        values: Any shape, one value a position.
        mask: Boolean or 0/1 tensor of the same shape, or None for every position.
    """
    if mask is None:
        return values.mean()
    mask = mask.to(torch.bool)
    # `where` before the sum: a masked position may hold nan or inf, and 0 * nan is nan.
    return torch.where(mask, values, values.new_zeros(())).sum() / mask.sum().clamp(min=1)


def match_spatial(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps (B, C, H, W) so that both have the smaller height and width."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))

    def pool(x: Tensor) -> Tensor:
        return x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size)

    return pool(student), pool(teacher)
