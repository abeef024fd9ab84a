"""Accuracy against confidence, as the calibration error and its plot read it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Mean confidence, accuracy and share of the samples of every bin that is not empty; each (bins,)."""

    confidence: Tensor
    accuracy: Tensor
    share: Tensor


def reliability_curve(logits: Tensor, target: Tensor, bins: int = BINS) -> Reliability:
    """Accuracy against confidence in equal bins of confidence, as in the calibration error."""
    confidence, answer = logits.float().softmax(1).max(1)
    which = (confidence * bins).long().clamp(max=bins - 1)
    count = torch.bincount(which, minlength=bins)
    mean = torch.bincount(which, weights=confidence.double(), minlength=bins) / count
    right = torch.bincount(which, weights=(answer == target).double(), minlength=bins) / count
    full = count > 0
    return Reliability(mean[full], right[full], (count / len(target))[full])
