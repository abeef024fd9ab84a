"""Temperature scaling: one number, fitted on validation, that makes the confidence of a network honest."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.files.artifact import IGNORED
from kd_lightning.measures.reliability import reliability_curve

LOWEST, HIGHEST = 0.01, 100.0  # temperatures that are looked at


def fit_temperature(logits: Tensor, target: Tensor) -> float | None:
    """The temperature T at which softmax(logits / T) gives `target` the highest likelihood.

    The likelihood is concave in 1/T, so the root of its slope is found by bisection.

    Args:
        logits: (M, C) of the validation split; the test split may not choose it.
        target: (M,) classes; -100 is left out.

    Returns:
        T in [0.01, 100]; None where nothing can be fitted: no sample, or every answer right, when the likelihood grows
        without end as T goes to zero.

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    valid = target != IGNORED
    scores, target = logits[valid].double(), target[valid].long()
    if not len(target) or not bool(scores.isfinite().all()) or bool((scores.argmax(1) == target).all()):
        return None
    chosen = scores.gather(1, target[:, None]).mean()

    def slope(sharpness: float) -> float:
        return float(((scores * sharpness).softmax(1) * scores).sum(1).mean() - chosen)

    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return float(1 / (low * high) ** 0.5)


def scaled_metrics(logits: Tensor, target: Tensor, validation: tuple[Tensor, Tensor] | None) -> dict[str, float]:
    """`temperature`, `ece_calibrated` and `nll_calibrated`; nothing where no temperature can be fitted.

    Args:
        logits: (N, C) of the test split.
        target: (N,) of the test split.
        validation: logits (M, C) and targets (M,) that the temperature is fitted on.
    """
    temperature = None if validation is None else fit_temperature(*validation)
    if temperature is None:
        return {}
    scaled = logits / temperature
    found = reliability_curve(scaled, target)
    return {
        "temperature": temperature,
        "ece_calibrated": float((found.share * (found.confidence - found.accuracy).abs()).sum()),
        "nll_calibrated": float(F.cross_entropy(scaled, target)),
    }
