"""What a deployed student takes: a tensor of images, or the named tensors of a tokenised text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.asked import logits_of

Inputs = Tensor | dict[str, Tensor]
"""``image`` (B, C, H, W) normalised float32; or by name ``input_ids``, ``attention_mask`` ..., each (B, T) int64."""


class TextNet(nn.Module):
    """A net and its call as a function of tensors in a fixed order: what can be exported.

    Args:
        net: The student.
        call: How a batch goes through it.
        names: Names of the tensors, in order.
        output: The signal that is the answer.
    """

    def __init__(self, net: nn.Module, call: Any, names: tuple[str, ...], output: str) -> None:
        super().__init__()
        if hasattr(call, "listen"):
            call.listen((output,), net)
        self.net, self.call, self.names, self.output = net, call, names, output

    def forward(self, *tensors: Tensor) -> Tensor:
        """The answer: logits (B, C) or (B, T, V), values (B, 1) or embeddings (B, D)."""
        answer: Tensor = self.call(self.net, dict(zip(self.names, tensors, strict=True)))[self.output]
        return answer


class LogitsNet(nn.Module):
    """A net that answers with more than its logits, such as a dictionary, as a function from a tensor to them.

    Args:
        net: The student.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C)."""
        return logits_of(self.net, self.net(image))


def unpacked(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch whose rows hold several texts (``segment_ids``), as rows of one text each, in the same order.

    What is deployed takes texts one by one and counts positions itself.
    """
    if "segment_ids" not in batch:
        return batch
    segments = batch["segment_ids"]
    places = [(r, (row == s).nonzero()[:, 0]) for r, row in enumerate(segments) for s in row[row > 0].unique()]
    width = max(len(found) for _, found in places)
    apart: dict[str, Any] = {}
    for name, empty in (("input_ids", 0), ("attention_mask", 0), ("target", -100)):
        rows = torch.full((len(places), width), empty, dtype=torch.int64)
        for i, (row, found) in enumerate(places):
            rows[i, : len(found)] = batch[name][row, found]
        apart[name] = rows
    return apart


def names_of(inputs: Inputs) -> list[str]:
    """Names of the tensors, in order."""
    return ["image"] if isinstance(inputs, Tensor) else list(inputs)


def tensors_of(inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors, in order."""
    return (inputs.contiguous(),) if isinstance(inputs, Tensor) else tuple(t.contiguous() for t in inputs.values())


def size_of(inputs: Inputs) -> int:
    """Number of samples."""
    return len(tensors_of(inputs)[0])


def part(inputs: Inputs, start: int, end: int) -> Inputs:
    """The samples from ``start`` to ``end``."""
    if isinstance(inputs, Tensor):
        return inputs[start:end].contiguous()
    return {name: tensor[start:end].contiguous() for name, tensor in inputs.items()}


def parts(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """So many samples at a time."""
    return (part(inputs, start, start + size) for start in range(0, size_of(inputs), size))


def dynamic_shapes(inputs: Inputs) -> tuple[Any, ...]:
    """For ``torch.export``: any number of samples; of texts, any length too."""
    dynamic = torch.export.Dim.DYNAMIC
    if isinstance(inputs, Tensor):
        return ({0: dynamic},)
    # Under one name, since they are one variadic argument of TextNet.
    return (tuple({0: dynamic, 1: dynamic} for _ in inputs),)


def bytes_of(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
