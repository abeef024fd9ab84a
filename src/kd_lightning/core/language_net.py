"""What a call of a language model has to know of a net, and of the padding of a batch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.windows import Windows


def positions(valid: Tensor, segments: Tensor | None = None) -> Tensor:
    """Positions (B, T) counted from the first valid token (of each packed text); 0 on padding before it."""
    count = valid.long().cumsum(1) - 1
    if segments is not None:
        starts = torch.ones_like(segments, dtype=torch.bool)
        starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
        count = count - count.masked_fill(~starts, -1).cummax(1).values.clamp(min=0)
    return count.clamp(min=0)


def valid_tokens(batch: Mapping[str, Any]) -> Tensor:
    """The mask of real tokens, (B, T)."""
    mask: Tensor | None = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"]) if mask is None else mask


def mean_over_tokens(states: Tensor, valid: Tensor) -> Tensor:
    """States (B, T, D) to their mean over the valid tokens, (B, D)."""
    weight = valid.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def without_wrapper(net: nn.Module) -> nn.Module:
    """The net inside one of PEFT's wrappers."""
    unwrap = getattr(net, "get_base_model", None)
    inner: nn.Module = unwrap() if callable(unwrap) else net
    return inner


@dataclass(frozen=True)
class LanguageNet:
    """What a call has to know of a net; found out once, since it walks through all modules.

    Attributes:
        net: The net as it is called.
        inner: The same without a wrapper of PEFT.
        base: Its part without a head; itself where it has none.
        path: Where the base is in it.
        taken: Keywords of its forward.
        taken_by_base: Those of the base.
        headless: A base model of transformers, whose output has no logits.
        counts_positions: It derives positions from the tokens (RoBERTa), with an offset that only it knows.
        token_types: How many kinds of tokens it tells apart.
        causal: A token sees only those before it.
        windows: How far its layers see.
        config: That of transformers, or None.
    """

    net: nn.Module
    inner: nn.Module
    base: nn.Module
    path: str
    taken: frozenset[str]
    taken_by_base: frozenset[str]
    headless: bool
    counts_positions: bool
    token_types: int
    causal: bool
    windows: Windows
    config: Any

    @classmethod
    def of(cls, net: nn.Module) -> LanguageNet:
        """Look at a net."""
        inner = without_wrapper(net)
        base: nn.Module = getattr(inner, "base_model", inner)
        config = getattr(inner, "config", None)
        modules = dict(inner.named_modules())
        return cls(
            net=net,
            inner=inner,
            base=base,
            path=next((path for path, module in modules.items() if module is base), ""),
            taken=frozenset(inspect.signature(inner.forward).parameters),
            taken_by_base=frozenset(inspect.signature(base.forward).parameters),
            headless=hasattr(inner, "base_model_prefix") and base is inner,
            counts_positions=any(hasattr(m, "create_position_ids_from_input_ids") for m in modules.values()),
            token_types=getattr(config, "type_vocab_size", 0) or 0,
            causal=any(getattr(module, "is_causal", False) for module in modules.values()),
            windows=Windows.of(config),
            config=config,
        )


def fields(output: Any) -> list[str]:
    """What an output of a net has."""
    return list(output) if isinstance(output, Mapping) else [n for n in dir(output) if not n.startswith("_")]
