"""What makes a step cheaper without changing what it computes."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch.profilers import PassThroughProfiler
from torch.optim import Optimizer

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]

_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class NoProfiler(PassThroughProfiler):
    """Measures nothing, at no cost: Lightning opens some ninety contexts in every step."""

    _nothing: AbstractContextManager[Any] = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        """A context that does nothing."""
        return self._nothing


def fused(optimizer: OptimizerFactory) -> OptimizerFactory:
    """The factory with ``fused=True`` where torch has a fused kernel for it and it does not choose for itself.

    Fused SGD refuses parameters of which some have their momentum already and others not yet, as when a stage of the
    method thaws them: so all start with a momentum of 0, from which the first step is the same.

    Args:
        optimizer: A partial of SGD, Adam or AdamW; anything else is given back as it is.
    """
    if not isinstance(optimizer, functools.partial) or optimizer.func not in _FUSED:
        return optimizer
    if any(optimizer.keywords.get(name) is not None for name in ("fused", "foreach", "differentiable")):
        return optimizer

    def build(groups: list[dict[str, Any]]) -> Optimizer:
        parameters = [parameter for group in groups for parameter in group["params"]]
        able = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
        if not able or optimizer.keywords.get("dampening"):
            plain: Optimizer = optimizer(groups)
            return plain
        built: Optimizer = functools.partial(optimizer, fused=True)(groups)
        for group in built.param_groups:
            if group.get("momentum"):
                for parameter in group["params"]:
                    built.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return built

    return build


def keep_memory() -> bool:
    """Let this process keep the memory that a step frees, for the next step; whether that could be arranged.

    glibc gives large blocks back to the system at once, and the system hands out zeroed pages again in the next step:
    a fifth of the time of a small net in float32 on a CPU. The process then stays as large as its largest step.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
