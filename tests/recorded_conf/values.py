"""What a file holds, taken apart into values that can be compared."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
import yaml
from safetensors import safe_open


def contents(path: Path) -> Any:
    """What a file holds: nested values, or a text."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {"metadata": file.metadata(), **{key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118
    if path.suffix == ".ckpt":
        return torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix == ".onnx":
        return _onnx(path)
    data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"sha256": hashlib.sha256(data).hexdigest()}
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix == ".yaml":
        return yaml.safe_load(text)
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    return text


def _onnx(path: Path) -> Any:
    """Operators and weights; the rest of the file says which module of the source they come from."""
    graph = onnx.load(path).graph
    weights = {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer}
    nodes = [[node.op_type, *node.input, *node.output, *map(str, node.attribute)] for node in graph.node]
    return {"nodes": nodes, "weights": weights}


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is not a collection, with its place."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from leaves(one, f"{place}.{key}" if place else str(key))
    elif isinstance(value, (list, tuple)):
        yield f"{place}.length", len(value)
        for number, one in enumerate(value):
            yield from leaves(one, f"{place}[{number}]")
    else:
        yield place, value


def same(a: Any, b: Any) -> bool:
    """Equal in type and every bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return torch.equal(*(one.contiguous().reshape(-1).view(torch.uint8) for one in (a, b)))
    return type(a) is type(b) and repr(a) == repr(b)  # of floats: every bit, and NaN is NaN


def differing(a: Any, b: Any) -> str:
    """A difference in one line."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape and a.is_floating_point():
        return f"differs by up to {float((a.double() - b.double()).abs().max()):.3g}"
    return f"{str(a)[:120]} -> {str(b)[:120]}"
