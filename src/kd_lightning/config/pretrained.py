"""Which checkpoint a net of transformers starts from."""

from __future__ import annotations

from typing import Any

HF = "kd_lightning.models.language.hf.hf"


def pretrained_name(net: Any) -> str | None:
    """The name of the checkpoint by the configuration of a net; None for another net, or one with random weights."""
    if not hasattr(net, "get") or net.get("_target_") != HF or not net.get("pretrained", True):
        return None
    name = net.get("name")
    return None if name is None else str(name)
