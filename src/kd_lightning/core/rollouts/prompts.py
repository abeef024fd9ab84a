"""Prompts out of a batch of text, and a batch out of prompts and responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kd_lightning.core.causal import shift_targets

# Entries that describe the tokens of the batch as it was; the new tokens have none.
_OF_TOKENS = ("token_type_ids", "position_ids", "segment_ids")


@dataclass(frozen=True)
class Prompts:
    """What is to be continued, with padding on the left, so that all rows end where the response begins.

    Attributes:
        input_ids: (B, P) int64.
        attention_mask: (B, P) int64, 0 for padding.
        lengths: Real tokens a row, (B,) int64.
    """

    input_ids: Tensor
    attention_mask: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class Responses:
    """What was written, with padding on the right.

    Attributes:
        tokens: (B, N) int64, the end token included; arbitrary after it.
        lengths: Tokens a row up to and including the end token, (B,) int64.
        behaviour: Log-probability of each token when it was drawn, (B, N) float32; None where nothing was drawn.
    """

    tokens: Tensor
    lengths: Tensor
    behaviour: Tensor | None = None


def take_prompts(batch: Mapping[str, Any], plain: int, longest: int | None = None) -> Prompts:
    """The prompts of a batch, wherever its padding is.

    Args:
        batch: ``input_ids`` and ``attention_mask`` (B, T); ``prompt_length`` (B,), 0 or missing for plain text.
        plain: How many tokens of a plain text are its prompt.
        longest: Of longer prompts only the last tokens, so many of them, are taken; None for all.

    Raises:
        ValueError: Where the batch is no text, or several texts share a row.
    """
    missing = [key for key in ("input_ids", "attention_mask") if key not in batch]
    if missing:
        raise ValueError(f"Text can be sampled for batches of text only: this one has no {' and no '.join(missing)}.")
    if batch.get("segment_ids") is not None:
        raise ValueError(
            "Several texts share a row of the batch (packing), so that none can be continued: set data.packing=false,"
            " or method.rollout=null."
        )
    ids, real = batch["input_ids"], batch["attention_mask"].bool()
    given = batch.get("prompt_length")
    given = torch.zeros_like(ids[:, 0]) if given is None else given
    whole = torch.where(given > 0, given, plain).minimum(real.sum(1)).clamp(min=1)
    lengths = whole if longest is None else whole.clamp(max=longest)
    ids = ids.gather(1, (~real).int().argsort(dim=1, stable=True))  # real tokens first
    width = int(lengths.max())
    number = torch.arange(width, device=ids.device) - (width - lengths).unsqueeze(1)  # negative: padding
    source = number.clamp(min=0) + (whole - lengths).unsqueeze(1)
    return Prompts(ids.gather(1, source), (number >= 0).long(), lengths)


def continued(batch: Mapping[str, Any], prompts: Prompts, responses: Responses, pad: int) -> dict[str, Any]:
    """The batch with responses in place of what followed the prompts, padded on the right.

    Args:
        batch: The batch that the prompts come from; entries that do not describe its tokens are kept.
        prompts: Its prompts.
        responses: What follows them.
        pad: Token at padded positions.

    Returns:
        ``input_ids``, ``attention_mask``, ``target``, ``loss_mask`` and, where known, ``behaviour``, all (B, T) with T
        that of the longest row; ``prompt_length`` (B,). ``target[:, t]`` is the token after t where that is one of the
        response, its end token included; ``behaviour[:, t]`` is the log-probability of ``target[:, t]``.
    """
    rows = torch.cat([prompts.input_ids, responses.tokens], 1)
    start = prompts.input_ids.shape[1] - prompts.lengths
    total = prompts.lengths + responses.lengths
    position = torch.arange(int(total.max()), device=rows.device)
    real = position < total.unsqueeze(1)
    source = (position + start.unsqueeze(1)).clamp(max=rows.shape[1] - 1)
    ids = torch.where(real, rows.gather(1, source), pad)
    target = shift_targets(ids, real & (position >= prompts.lengths.unsqueeze(1)))
    result = {key: value for key, value in batch.items() if key not in _OF_TOKENS}
    result |= {"input_ids": ids, "attention_mask": real.long(), "target": target, "loss_mask": target != -100}
    result["prompt_length"] = prompts.lengths
    if responses.behaviour is not None:
        # The token after position t is number t + 1 - prompt_length of the response.
        number = (position + 1 - prompts.lengths.unsqueeze(1)).clamp(0, responses.tokens.shape[1] - 1)
        result["behaviour"] = torch.where(result["loss_mask"], responses.behaviour.gather(1, number), 0.0)
    return result
