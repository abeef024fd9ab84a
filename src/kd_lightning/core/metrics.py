"""Metrics that torchmetrics lacks, and where a metric's arguments come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from kd_lightning.core.references import Reference


class NegativeLogLikelihood(Metric):
    """Mean negative log-likelihood in nats; targets of -100 are ignored."""

    full_state_update = False
    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add logits (B, C) and targets (B,)."""
        self.total += F.cross_entropy(preds.float(), target, reduction="sum", ignore_index=-100)
        self.count += (target != -100).sum()

    def compute(self) -> Tensor:
        """Nats per sample."""
        return (self.total / self.count.clamp(min=1)).float()


class Perplexity(NegativeLogLikelihood):
    """The exponential of the mean negative log-likelihood per token."""

    def compute(self) -> Tensor:
        """At least 1."""
        return super().compute().exp()


class Evaluation(nn.Module):
    """Which metrics are measured on validation and test, and on what.

    Args:
        metrics: Name -> torchmetrics metric.
        inputs: Argument of the metrics' ``update`` -> reference.
        below: What stands between split and metric in the log: ``ema/`` for ``val/ema/top1``.
    """

    def __init__(
        self, metrics: Mapping[str, Metric | MetricCollection], inputs: Mapping[str, str], below: str = ""
    ) -> None:
        super().__init__()
        self.inputs = {name: Reference.parse(text) for name, text in inputs.items()}
        self._metrics: dict[str, Metric | MetricCollection] = dict(metrics)
        collection = MetricCollection(self._metrics)
        self.splits = nn.ModuleDict({f"on_{s}": collection.clone(prefix=f"{s}/{below}") for s in ("val", "test")})

    def of_follower(self, name: str, leader: str) -> Evaluation:
        """The same of a role that follows another, in whose place it is measured."""
        own = Evaluation(self._metrics, {}, f"{name}/")
        own.inputs = {key: replace(r, scope=name) if r.scope == leader else r for key, r in self.inputs.items()}
        return own

    def update(self, split: str, inputs: Mapping[str, Any]) -> MetricCollection:
        """Add a batch to the metrics of a split; gives them.

        Predictions for every token, (B, T, V) beside targets (B, T), count as so many samples; predicted values (B, 1)
        beside targets (B,) lose their last dimension.
        """
        inputs, metrics = dict(inputs), self.collection(split)
        preds, target = inputs.get("preds"), inputs.get("target")
        if isinstance(preds, Tensor) and isinstance(target, Tensor):
            if preds.ndim == 3 and target.ndim == 2:
                inputs.update(preds=preds.flatten(0, 1), target=target.flatten())
            elif preds.ndim == 2 and preds.shape[1] == 1 and target.is_floating_point() and target.ndim == 1:
                inputs.update(preds=preds[:, 0])
        metrics.update(**inputs)
        return metrics

    def collection(self, split: str) -> MetricCollection:
        """The metrics of ``val`` or ``test``."""
        collection = self.splits[f"on_{split}"]
        assert isinstance(collection, MetricCollection)
        return collection


class Evaluations(nn.ModuleList):
    """The metrics of the role that learns, and the same of the roles that follow it.

    Args:
        evaluation: Of the role that learns; None where nothing is measured.
        followers: Name of a role -> the one that it follows.
    """

    def __init__(self, evaluation: Evaluation | None, followers: Mapping[str, str]) -> None:
        found = [] if evaluation is None else [evaluation]
        super().__init__([*found, *(one.of_follower(*names) for one in found for names in followers.items())])

    @property
    def references(self) -> list[Reference]:
        """What is measured, on what."""
        return [reference for one in self for reference in one.inputs.values()]  # type: ignore[operator]

    def update(self, split: str, resolve: Callable[[Reference], Any]) -> Iterator[MetricCollection]:
        """Add a batch to the metrics of a split; gives those of each role."""
        for one in self:
            assert isinstance(one, Evaluation)
            yield one.update(split, {name: resolve(reference) for name, reference in one.inputs.items()})
