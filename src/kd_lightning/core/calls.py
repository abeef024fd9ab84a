"""Calls: how a batch goes through a net and what signals come back. The seam between modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

Signals = dict[str, Any]
Batch = Mapping[str, Any]


class Call(Protocol):
    """A call names the signals that it gives and makes them."""

    provides: tuple[str, ...]

    def __call__(self, net: nn.Module, batch: Batch) -> Signals:
        """Run the net on the batch."""
        ...


class TensorCall:
    """Nets that take one tensor and return logits.

    Args:
        key: Batch key of the input, (B, ...).
    """

    provides = ("logits",)

    def __init__(self, key: str = "image") -> None:
        self.key = key

    def __call__(self, net: nn.Module, batch: Batch) -> Signals:
        """Logits (B, C)."""
        output = net(batch[self.key])
        if not isinstance(output, Tensor):
            # Hugging Face image models return an object with logits.
            output = output.logits
        return {"logits": output}
