"""Several batches that make one step: the mean over all their tokens or samples, not the mean of their means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# Weights are token counts in units of this, so that a weighted loss has about the size of a loss (half precision).
_UNIT = 1024.0


class TokenWeights:
    r"""Weighs the batches that make one step together, over accumulation and processes, by their tokens.

    The loss of a batch is a mean over its own tokens, and Lightning averages the gradients of the batches: tokens of
    short batches would count more than others. With :math:`n_i` the tokens of batch i that are learnt from,

    .. math:: \frac{1}{\sum_i n_i} \sum_i n_i \nabla L_i

    is the gradient of one batch that holds them all. The counts of batches to come are not known, so that each loss is
    multiplied by its count, and the gradients are divided by the sum before the optimiser steps (and before they are
    clipped). A last step of an epoch that has fewer batches is a mean over these.

    Exact for terms that are means over ``loss_mask``; a term that averages over something else, such as the samples of
    a batch, is weighted in the same way.

    Batches without ``loss_mask`` (pictures, features) count by their samples, in units of the first one of a step:
    where all are of a size and as many as there should be, as in every step but the last of an epoch, nothing changes.
    """

    def __init__(self) -> None:
        self._tokens: Tensor | None = None
        self._unit, self._samples = 0, 0.0

    def weigh(self, loss: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The loss of one of the batches, times the count of its tokens, or of its samples.

        Args:
            loss: Scalar, a mean over the tokens or samples of the batch.
            batch: ``loss_mask`` (B, T), where it has one, is true where a token is learnt from.
        """
        if "loss_mask" not in batch:
            return self._by_samples(loss, batch)
        tokens = batch["loss_mask"].sum().to(loss.dtype) / _UNIT
        self._tokens = tokens if self._tokens is None else self._tokens + tokens
        weighted: Tensor = loss * tokens
        return weighted

    def _by_samples(self, loss: Tensor, batch: Mapping[str, Any]) -> Tensor:
        size = next((len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim()), 1)
        self._unit = self._unit or size
        self._samples += size / self._unit
        return loss if size == self._unit else loss * (size / self._unit)

    def settle(self, optimizer: Optimizer, batches: int) -> None:
        """Divide the gradients by the tokens of all batches and processes, or by the samples of the batches.

        Args:
            optimizer: Whose parameters.
            batches: By how many each loss was divided (``accumulate_grad_batches``).
        """
        samples, self._unit, self._samples = self._samples, 0, 0.0
        if self._tokens is None:
            if samples not in (0, batches):
                _scale(optimizer, torch.tensor(batches / samples))
            return
        tokens, self._tokens = self._tokens, None
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(tokens)
            batches *= torch.distributed.get_world_size()  # over which the gradients were averaged
        _scale(optimizer, batches / tokens.clamp(min=1 / _UNIT))


def _scale(optimizer: Optimizer, factor: Tensor) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.mul_(factor.to(parameter.grad))
