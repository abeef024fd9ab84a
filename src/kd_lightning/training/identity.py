"""Weights as an identity sees them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from kd_lightning.data.arrays import plain_tensors
from kd_lightning.files.runs import digest


def weights_hash(net: nn.Module) -> str:
    """Hash of a net's weights and buffers."""
    return digest([(name, tensor_hash(value)) for name, value in sorted(net.state_dict().items())])


def tensor_hash(value: Tensor) -> str:
    """Hash of a tensor's bytes."""
    parts = plain_tensors(value)
    if parts[0] is not value:
        return digest([tensor_hash(part) for part in parts])
    return hashlib.sha256(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
