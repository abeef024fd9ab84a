"""A net is asked: where it cannot take what it is given, that is said in the user's words."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# What is no news of the net: memory, and what was put into words before.
_PASSED = (torch.OutOfMemoryError, MemoryError, ValueError, OSError)


def ask(net: nn.Module, given: Tensor) -> Any:
    """Run a net on a tensor.

    Args:
        net: Any.
        given: What it takes, (B, ...); as precise as its weights where those are of half precision.

    Raises:
        ValueError: It cannot take it; names the net, the shape and the line where it stopped.
    """
    weight = next(net.parameters(), None)
    if weight is not None and weight.dtype in (torch.bfloat16, torch.float16) and given.is_floating_point():
        given = given.to(weight.dtype)
    try:
        return net(given)
    except _PASSED:
        raise
    except Exception as error:
        raise ValueError(cannot_take(net, given, error)) from error


def cannot_take(net: nn.Module, given: Tensor | Mapping[str, Any], error: Exception) -> str:
    """Why a net stopped, and what to look at."""
    name, single = type(net).__name__, isinstance(given, Tensor)
    try:
        inspect.signature(net.forward).bind(*[given] if single else [], **{} if single else given)
    except (TypeError, ValueError):
        return (
            f"{name}.forward takes {inspect.signature(net.forward)}, and is given"
            f" {'one tensor' if single else ', '.join(given)}. A net with other inputs needs a call of its own:"
            " student.call._target_=<a class with provides, arguments and __call__, as in kd_lightning.core.calls>."
        )
    shape = tuple(given.shape) if isinstance(given, Tensor) else {key: tuple(x.shape) for key, x in given.items()}
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = ": ".join([type(error).__name__, *lines[:1]]).rstrip(".")
    advice = "Is it made for inputs of this shape?"
    if isinstance(given, Tensor) and given.dim() == 4:
        advice = "Is it made for pictures of this size (data.image_size) and so many channels?"
    return f"{name} cannot take a batch of shape {shape}: {reason} ({_where(error)}). {advice}"


def logits_of(net: nn.Module, output: Any) -> Tensor:
    """The logits in what a net answers: all of it, or what it names ``logits``.

    Raises:
        ValueError: There are none, or they are none of every sample.
    """
    logits = output if isinstance(output, Tensor) else _named(output)
    if not isinstance(logits, Tensor):
        parts = f" of {len(output)} parts" if isinstance(output, tuple | list) else ""
        held = f" ({', '.join(map(str, output))})" if isinstance(output, Mapping) else ""
        raise ValueError(
            f"{type(net).__name__} answers with {type(output).__name__}{parts}{held}, in which nothing is named"
            " 'logits'. Let its forward return the logits alone, a dictionary with 'logits', or an object that has"
            " them."
        )
    if logits.dim() < 2:
        raise ValueError(
            f"{type(net).__name__} answers with shape {tuple(logits.shape)}: logits have a row for every sample,"
            " (B, C)."
        )
    return logits


def _named(output: Any) -> Any:
    return output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)


def _where(error: Exception) -> str:
    """The last line that is not PyTorch's own."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/torch/" not in frame.filename] or list(frames)
    return f"{own[-1].filename}, line {own[-1].lineno}"
