"""The device of a training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch


def training_device(accelerator: str, devices: Any) -> torch.device:
    """Where this process trains.

    Args:
        accelerator: As for Lightning's Trainer.
        devices: As for Lightning's Trainer: a number, or a list whose first is that of the first process.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        first = devices[0] if isinstance(devices, Sequence) and not isinstance(devices, str) and devices else 0
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", first)))
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
