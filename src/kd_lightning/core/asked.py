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


def ask(net: nn.Module, given: Tensor | Mapping[str, Any]) -> Any:
    """Run a net on a tensor, or on keywords.

    Args:
        net: Any.
        given: What it takes, (B, ...) each; a tensor is made as precise as weights of half precision.

    Raises:
        ValueError: It cannot take it; names the net, the shapes and the line where it stopped.
        IndexError: Of keywords: a token that it does not know.
    """
    if isinstance(given, Tensor):
        weight = next(net.parameters(), None)
        if weight is not None and weight.dtype in (torch.bfloat16, torch.float16) and given.is_floating_point():
            given = given.to(weight.dtype)
    try:
        return net(given) if isinstance(given, Tensor) else net(**given)
    except _PASSED:
        raise
    except Exception as error:
        if isinstance(error, IndexError) and not isinstance(given, Tensor):
            raise  # whose caller knows how many tokens there are
        raise ValueError(cannot_take(net, given, error)) from error


def cannot_take(net: nn.Module, given: Tensor | Mapping[str, Any], error: Exception) -> str:
    """Why a net stopped, and what to look at."""
    name, signature = type(net).__name__, inspect.signature(net.forward)
    try:
        signature.bind(given) if isinstance(given, Tensor) else signature.bind(**given)
    except TypeError:
        return (
            f"{name}.forward takes {signature}, and is given"
            f" {'one tensor' if isinstance(given, Tensor) else ', '.join(given)}. A net with other inputs needs a call"
            " of its own: student.call._target_=<a class with provides, arguments and __call__, as in"
            " kd_lightning.core.calls>."
        )
    if isinstance(given, Tensor):
        shapes = str(tuple(given.shape))
        pictures = "pictures of this size (data.image_size) and so many channels"
        made_for = pictures if given.dim() == 4 else "inputs of this shape"
    else:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in given.items() if isinstance(value, Tensor))
        made_for = "texts of this length (net.max_length, data.max_length) and so many tokens (net.vocab_size)"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = ": ".join([type(error).__name__, *lines[:1]]).rstrip(".")
    return f"{name} cannot take a batch of shape {shapes}: {reason} ({_where(error)}). Is it made for {made_for}?"


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
