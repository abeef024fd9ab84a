"""Counter-based random numbers: a pure function of (seed, view, index, draw), the same on every device.

A generator has a state, so that what a sample gets depends on who drew before it: on the order of the batch,
the number of processes, where a run was resumed. Here the numbers of a sample are a hash of its names instead.
The mixer is the finaliser of splitmix64 (Steele, Lea, Flood. Fast splittable pseudorandom number generators.
OOPSLA 2014), in int64 arithmetic that wraps alike on CPU and GPU.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix_tensor(z: Tensor) -> Tensor:
    def shifted(x: Tensor, bits: int) -> Tensor:
        return (x >> bits) & ((1 << (64 - bits)) - 1)  # `>>` of int64 keeps the sign; the mask makes it logical

    z = (z ^ shifted(z, 30)) * _signed(_M1)
    z = (z ^ shifted(z, 27)) * _signed(_M2)
    return z ^ shifted(z, 31)


def _mix_int(z: int) -> int:
    z &= _MASK
    z = ((z ^ (z >> 30)) * _M1) & _MASK
    z = ((z ^ (z >> 27)) * _M2) & _MASK
    return _signed(z ^ (z >> 31))


def fold(state: int | Tensor, value: int | Tensor) -> int | Tensor:
    """New 64-bit state from a state and an integer name; elementwise with tensors (int64, broadcast).

    Python integers stay Python integers, so that no constant is copied to a device.
    """
    if isinstance(value, Tensor):
        value = value.to(torch.int64)
        offset: int | Tensor = (value + 1) * _signed(_GAMMA)
    else:
        offset = _signed((value + 1) * _GAMMA)
    if isinstance(state, Tensor) or isinstance(offset, Tensor):
        return _mix_tensor(torch.as_tensor(state + offset))
    return _mix_int(state + offset)


def fold_text(state: int, text: str) -> int:
    """New state from a state and a text."""
    return int(fold(state, _signed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))))


def random_bits(seed: int, view: int | Tensor, index: Tensor, draw: int | Tensor = 0) -> Tensor:
    """Random int64 (B,), a function of the four names alone.

    Args:
        seed: Any integer.
        view: Which look at the sample, such as the epoch; an integer or (B,) int64.
        index: Which sample, (B,) int64.
        draw: Which number of this sample and view; a tensor is broadcast against the others.
    """
    bits = fold(fold(fold(fold(seed, 0x5EED), draw), view), index)
    assert isinstance(bits, Tensor)
    return bits


def uniform(seed: int, view: int | Tensor, index: Tensor, draw: int | Tensor = 0) -> Tensor:
    """Random float32 (B,) in [0, 1), a function of the four names alone; see :func:`random_bits`."""
    top = (random_bits(seed, view, index, draw) >> 40) & 0xFFFFFF  # 24 bits are exact in float32
    return top.to(torch.float32) * 2.0**-24


def permutation(size: int, seed: int, epoch: int) -> Tensor:
    """Random order of ``range(size)``, (size,) int64, a function of (size, seed, epoch) alone."""
    return random_bits(seed, epoch, torch.arange(size)).argsort(stable=True)
