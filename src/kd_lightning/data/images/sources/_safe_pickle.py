"""Reads the official CIFAR pickles without running what is in them.

A pickle is a program: it may name any function and call it. Here the only names that resolve are those with which
numpy writes an array, and they resolve to the stand-ins below, which hold bytes and a shape. No numpy code, and no
code of the file's choosing, runs while it is read.
"""

from __future__ import annotations

import codecs
import io
import math
import pickle
from typing import Any

import torch
from torch import Tensor


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, name: str | bytes, *_: Any) -> None:
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and alignment, of no meaning for bytes


class Array:
    """Stands for numpy.ndarray."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        _, *self_state = state
        self.state = tuple(self_state)

    def tensor(self) -> Tensor:
        """The content, uint8.

        Raises:
            ValueError: It is not an array of bytes.
        """
        try:
            shape, dtype, fortran, raw = self.state
            if dtype.name not in ("u1", "|u1", "uint8"):
                raise TypeError(f"it holds {dtype.name}, not bytes")
            if not raw or len(raw) != math.prod(shape):
                raise TypeError(f"{len(raw)} bytes do not fill the shape {shape}")
            flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
            return flat.view(*reversed(shape)).permute(*reversed(range(len(shape)))) if fortran else flat.view(*shape)
        except Exception as error:  # the file chose what is in the state
            raise ValueError(f"an array in it is malformed: {error}") from error


def _reconstruct(*_: Any) -> Array:
    return Array()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: str) -> Array:
    array = Array()
    array.state = (shape, dtype, order == "F", bytes(raw))
    return array


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes into old pickles; no other codec."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it uses the codec '{encoding}'")
    return codecs.latin_1_encode(text)[0]


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which data has no use for; do not trust it")
        return _ALLOWED[module, name]


def safe_loads(data: bytes) -> dict[str, Any]:
    """The dictionary in a pickle of plain data; its keys as text, arrays as :class:`Array`.

    Raises:
        ValueError: Truncated, not a pickle, not a dictionary, or it asks for anything but plain data.
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle fails in any way: EOF, index, type, unicode, memory ...
        raise ValueError(" ".join(str(error).rstrip(".").split()) or type(error).__name__) from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a dictionary")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}
