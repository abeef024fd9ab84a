"""The most probable classes of a net that has many, instead of all logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from kd_lightning.core.calls import Batch, Call

TOPK = ("topk_indices", "topk_log_probs", "topk_tail")


class TopKCall:
    """A call that also gives the k most probable classes, at temperature 1.

    Signals: ``topk_indices`` (..., k) int64, most probable first; ``topk_log_probs`` (..., k) float32;
    ``topk_tail`` (...) float32, the log of the probability that all other classes have together (-inf for none).

    Args:
        call: The call, which must give ``logits`` (..., C).
        k: How many; all where there are fewer.
        key: Where the role is set, for messages.

    Raises:
        ValueError: The call gives no logits, or k is less than 1.
    """

    def __init__(self, call: Call, k: int, key: str = "teacher") -> None:
        if k < 1:
            raise ValueError(f"{key}.topk must be at least 1, got {k}.")
        if "logits" not in call.provides:
            raise ValueError(f"{key}.topk needs a call that gives logits; this one gives {', '.join(call.provides)}.")
        self.call, self.k = call, k
        self.provides = (*call.provides, *TOPK)
        self.prefix = getattr(call, "prefix", "")
        self._names: frozenset[str] | None = None

    def arguments(self, batch: Batch) -> Any:
        """What the net is called with."""
        return self.call.arguments(batch)

    def listen(self, names: Iterable[str], net: nn.Module | None = None) -> None:
        """Pass on which signals are wanted; the top k need the logits."""
        self._names = frozenset(names)
        listen = getattr(self.call, "listen", None)
        if callable(listen):
            needed = {"logits"} if self._names & set(TOPK) else set()
            listen(self._names.difference(TOPK) | needed, net)

    def __call__(self, net: nn.Module, batch: Batch) -> dict[str, Any]:
        """The signals of the call, and the top k of its logits."""
        signals = self.call(net, batch)
        if self._names is not None and not self._names & set(TOPK):
            return signals
        log_probs = signals["logits"].float().log_softmax(-1)
        kept, indices = log_probs.topk(min(self.k, log_probs.shape[-1]), dim=-1)
        # Summed over the others: one minus the kept mass would be rounding noise where the tail is small.
        tail = log_probs.scatter(-1, indices, -torch.inf).logsumexp(-1)
        return {**signals, "topk_indices": indices, "topk_log_probs": kept, "topk_tail": tail}
