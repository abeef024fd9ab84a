"""The device of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from kd_lightning.core.ranks import local_rank


def training_device(accelerator: str, devices: Any) -> torch.device:
    """Where this process trains.

    Args:
        accelerator: As for Lightning's Trainer.
        devices: As for Lightning's Trainer: a number, or a list whose first is that of the first process.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        first = devices[0] if isinstance(devices, Sequence) and not isinstance(devices, str) and devices else 0
        own = local_rank()
        return torch.device("cuda", first if own is None else own)
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
