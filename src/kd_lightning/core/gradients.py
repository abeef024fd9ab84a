"""Which way the terms pull: gradient norms by term, and the angle between the task and the distillation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from kd_lightning.core.distiller import Distiller
from kd_lightning.core.terms import Term

log = logging.getLogger(__name__)


class GradientProbe(pl.Callback):
    """Logs ``grad/<term>`` and ``grad/cosine`` of a step now and then.

    ``grad/<term>`` is the Euclidean norm of the gradient of the weighted term over the student's parameters.
    ``grad/cosine`` is the cosine of the angle between the summed gradients of the terms that take something from
    another role (distillation) and of those that do not (the task); it is missing where there is only one kind.

    Measured is a real step, before its backward pass, with one more backward pass a term: training itself does not
    change. Not measured is a compiled net (its backward pass runs only once) and a net in shards.

    Args:
        every_n_steps: Number of batches between two measurements; None: the first batch of every epoch.
        role: Whose parameters.

    Raises:
        ValueError: Where ``every_n_steps`` is less than 1.
    """

    def __init__(self, every_n_steps: int | None = None, role: str = "student") -> None:
        super().__init__()
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"callbacks.gradients.every_n_steps must be at least 1 or null, got {every_n_steps}.")
        self.every_n_steps = every_n_steps
        self.role = role
        self._active = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out whether gradients of single terms can be had here."""
        self._active = False
        if not isinstance(pl_module, Distiller) or self.role not in pl_module.roles.trainable:
            return
        compiled = any(getattr(m, "_compiled_call_impl", None) is not None for m in pl_module.modules())
        self._active = isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)) and not compiled
        if not self._active:
            log.info("gradients by term are not measured: the net is compiled or in shards")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Ask the objective to keep its terms, where this batch is to be measured."""
        due = batch_idx == 0 if self.every_n_steps is None else batch_idx % self.every_n_steps == 0
        if self._active and due:
            assert isinstance(pl_module, Distiller)
            pl_module.objective.watched = {}

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Measure what was kept."""
        if not self._active:
            return
        assert isinstance(pl_module, Distiller)
        terms, pl_module.objective.watched = pl_module.objective.watched, None
        if not terms:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        found = self._measure(pl_module, terms, scale)
        for name, value in found.items():
            pl_module.log(f"grad/{name}", value, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def _measure(self, module: Distiller, terms: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        """Norm of every term, and the cosine."""
        net = module.roles.trainable[self.role]
        parameters = [p for p in net.parameters() if p.requires_grad]
        result: dict[str, Tensor] = {}
        sums: dict[bool, list[Tensor]] = {}
        for name, value in terms.items():
            gradient = _gradient(value * scale, parameters)
            gradient = [part / scale for part in gradient]
            result[name] = _norm(gradient)
            taught = _is_distillation(module.objective.terms[name], module, self.role)
            before = sums.get(taught)
            sums[taught] = gradient if before is None else [a + b for a, b in zip(before, gradient, strict=True)]
        if len(sums) == 2:
            norms = _norm(sums[True]) * _norm(sums[False])
            dot = torch.stack([(a * b).sum() for a, b in zip(sums[True], sums[False], strict=True)]).sum()
            result["cosine"] = dot / norms.clamp(min=1e-30)
        return result


def _gradient(value: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Gradient of a value, float32, zero where it does not depend on a parameter."""
    if not value.requires_grad or not parameters:
        return [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(p, dtype=torch.float32) if part is None else part.float()
        for p, part in zip(parameters, found, strict=True)
    ]


def _norm(parts: Sequence[Tensor]) -> Tensor:
    if not parts:
        return torch.zeros(())
    return torch.stack([part.square().sum() for part in parts]).sum().sqrt()


def _is_distillation(term: nn.Module, module: Distiller, role: str) -> bool:
    """Whether a term takes something from another role."""
    assert isinstance(term, Term)
    return any(r.scope in module.roles.by_name and r.scope != role for r in term.references())
