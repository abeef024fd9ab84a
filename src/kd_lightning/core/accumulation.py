"""Several batches of text that make one step: the mean over all their tokens, not the mean of their means."""

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
    """

    def __init__(self) -> None:
        self._tokens: Tensor | None = None

    def weigh(self, loss: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The loss of one of the batches, times the count of its tokens; as it is where the batch has no ``loss_mask``.

        Args:
            loss: Scalar, a mean over the tokens of the batch.
            batch: ``loss_mask`` (B, T) is true where a token is learnt from.
        """
        if "loss_mask" not in batch:
            return loss
        tokens = batch["loss_mask"].sum().to(loss.dtype) / _UNIT
        self._tokens = tokens if self._tokens is None else self._tokens + tokens
        weighted: Tensor = loss * tokens
        return weighted

    def settle(self, optimizer: Optimizer, batches: int) -> None:
        """Divide the gradients by the tokens of all batches and processes.

        Args:
            optimizer: Whose parameters.
            batches: By how many each loss was divided (``accumulate_grad_batches``).
        """
        if self._tokens is None:
            return
        tokens, self._tokens = self._tokens, None
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(tokens)
            batches *= torch.distributed.get_world_size()  # over which the gradients were averaged
        factor = batches / tokens.clamp(min=1 / _UNIT)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor.to(parameter.grad.dtype))
