"""Tokens that are predicted: causal and masked language models."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.measures.reliability import reliability_curve
from kd_lightning.tasks.base import Score


def token_metrics(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Likelihood and calibration of predicted tokens: logits (N, V), target (N,).

    Returns:
        `nll` in nats per token, `perplexity`, its exponential, and `top1` and `ece` in [0, 1].
    """
    found = reliability_curve(logits, target)
    nll = float(F.cross_entropy(logits.float(), target))
    return {
        "nll": nll,
        "perplexity": math.exp(min(nll, 700.0)),
        "top1": float((logits.argmax(1) == target).float().mean()),
        "ece": float((found.share * (found.confidence - found.accuracy).abs()).sum()),
    }


TOKEN_NLL = Score("nll", "NLL", "nats", "nats per token", scale=1.0, digits=3, higher=False)
