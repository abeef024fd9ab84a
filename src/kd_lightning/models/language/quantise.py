"""Weights of a frozen teacher in 8 or 4 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

KINDS = ("int8", "nf4")


def settings(kind: str | None) -> dict[str, Any]:
    """Options of ``from_pretrained`` that load quantised weights: bitsandbytes on a GPU; empty elsewhere.

    Raises:
        ValueError: An unknown kind, or one that this machine cannot do.
    """
    if kind is None:
        return {}
    if kind not in KINDS:
        raise ValueError(f"quantise={kind}: choose {' or '.join(KINDS)}, or null.")
    if not torch.cuda.is_available():
        if kind == "nf4":
            raise ValueError("quantise=nf4 needs an NVIDIA GPU (bitsandbytes). On a CPU take quantise=int8.")
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ValueError(
            f"quantise={kind} on a GPU needs the package bitsandbytes: pip install bitsandbytes. On a CPU, int8 works"
            " through torchao."
        ) from None
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}  # type: ignore[no-untyped-call]
    return {
        "quantization_config": BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    }


def quantised(net: nn.Module, kind: str) -> nn.Module:
    """The net with its linear layers in int8 (weights only, by torchao), in place; as it is where it was loaded so.

    It is frozen: what is quantised does not learn.

    Raises:
        ValueError: Without torchao.
    """
    net.requires_grad_(False)
    settings(kind)
    if getattr(net, "is_quantized", False):
        return net
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise ValueError("quantise=int8 on a CPU needs the package torchao: pip install torchao.") from None
    quantize_(net, Int8WeightOnlyConfig())
    return net
