"""Low-rank adapters (Hu et al., LoRA, ICLR 2022) through the package peft."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

_log = logging.getLogger(__name__)


def add_lora(
    net: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: str | Sequence[str] | None = None,
) -> None:
    """Freeze a net and add adapters to its linear layers, in place: class and paths of the net stay.

    A head of labels, which is new, is trained as a whole.

    Args:
        net: A model of transformers.
        r: Rank.
        alpha: The adapter's output is multiplied by alpha / r.
        dropout: Before the adapter.
        targets: Names of the layers that get one; None for what peft takes for the architecture (queries and values,
            mostly), ``all-linear`` for every one but the head.

    Raises:
        ValueError: Without peft, or where no layer has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError("lora needs the package peft: pip install 'kd-lightning[peft]'.") from None
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=targets if targets is None or isinstance(targets, str) else list(targets),
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in net.modules()),
        task_type=None,
    )
    heads = [name for name, _ in net.named_children() if name in ("classifier", "score", "classification_head")]
    net.requires_grad_(False)
    inject_adapter_in_model(config, net)
    for name in heads:
        net.get_submodule(name).requires_grad_(True)
    learnt = sum(p.numel() for p in net.parameters() if p.requires_grad)
    _log.info("LoRA: %s of %s parameters learn.", f"{learnt:,}", f"{sum(p.numel() for p in net.parameters()):,}")


def merge_lora(net: nn.Module) -> nn.Module:
    """Add the adapters into the weights and take them out, in place: the net is what it was, with other weights.

    Returns:
        The net; unchanged where it has no adapters.
    """
    for path, module in list(net.named_modules()):
        merged: Any = getattr(module, "get_base_layer", None)
        if callable(merged) and hasattr(module, "lora_A"):
            module.merge()
            net.set_submodule(path, merged())
    for extra in ("peft_config", "_hf_peft_config_loaded"):
        if extra in net.__dict__:
            delattr(net, extra)
    return net


def has_lora(net: nn.Module) -> bool:
    """Whether there are adapters in it."""
    return any(hasattr(module, "lora_A") for module in net.modules())
