"""Measures of one network: what its logits are worth, and what it costs to run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def count_parameters(net: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in net.parameters())


def flops(net: nn.Module, example: Any) -> int:
    """Floating-point operations of one sample: matrix products and convolutions, a multiply-add as two.

    Args:
        net: any module; its mode is restored.
        example: a tensor (B, ...), a dict of them (given as keywords) or a tuple (given in order); the first of the
            batch is used.
    """
    from torch.utils.flop_counter import FlopCounterMode

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused kernel of nn.MultiheadAttention is not counted
    try:
        with _evaluating(net), FlopCounterMode(display=False) as counter:
            _call(net, _resize(example, 1))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


def latency(net: nn.Module, example: Any, batch: int = 1, repeats: int = 20) -> float:
    """Median milliseconds of one forward of `batch` samples, after a warm-up, on the device of `example`.

    Args:
        net: any module; its mode is restored, the number of threads is left as it is.
        example: as for `flops`; its first sample is repeated `batch` times.
        batch: number of samples per forward.
        repeats: number of timed forwards.
    """
    if batch < 1 or repeats < 1:
        raise ValueError(f"Latency needs batch and repeats of at least 1, got {batch} and {repeats}.")
    inputs = _resize(example, batch)
    times = []
    with _evaluating(net):
        for _ in range(max(2, repeats // 5)):
            _call(net, inputs)
        for _ in range(repeats):
            _synchronise()
            start = time.perf_counter()
            _call(net, inputs)
            _synchronise()
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradient; every module gets its own mode back (a frozen part stays in eval)."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _call(net: nn.Module, inputs: Any) -> None:
    if isinstance(inputs, Mapping):
        net(**inputs)
    elif isinstance(inputs, tuple):
        net(*inputs)
    else:
        net(inputs)


def _resize(example: Any, batch: int) -> Any:
    """The first sample of `example`, `batch` times."""
    if isinstance(example, Mapping):
        return {key: _resize(value, batch) for key, value in example.items()}
    if isinstance(example, tuple):
        return tuple(_resize(value, batch) for value in example)
    if not isinstance(example, Tensor):
        return example
    return example[:1].expand(batch, *example.shape[1:]).contiguous()
