"""Logit standardisation (Sun et al., CVPR 2024): the z-score that every logit loss offers as ``standardize=True``."""

from __future__ import annotations

from torch import Tensor

from kd_lightning.losses.ops.common import full_precision


@full_precision
def standardize_logits(logits: Tensor) -> Tensor:
    r"""Z-score of the logits of each position over the classes.

    .. math:: n(z) = \frac{z - \operatorname{mean}(z)}{10^{-7} + \operatorname{std}(z)}

    Teacher and student are standardised alike before the temperature divides, so that the student need match the
    relations between the teacher's logits and not their range. The temperature then sets the sharpness alone.

    References:
        [0] Sun, Ren, Li, Wang, Cao. Logit Standardization in Knowledge Distillation. CVPR 2024.
        [1] sunshangquan/logit-standardization-KD, mdistiller/distillers/KD.py

    Args:
        logits: (..., C), at least two classes.

    Returns:
        Same shape; mean 0 and (unbiased) deviation 1 over the last dimension, 0 where all logits are equal.

    Raises:
        ValueError: Where there are fewer than two classes.

    Example:
        >>> import torch
        >>> standardize_logits(torch.tensor([[1.0, 2.0, 3.0]])).round(decimals=3).tolist()
        [[-1.0, 0.0, 1.0]]
    """
    if logits.shape[-1] < 2:
        raise ValueError(
            f"Logits of shape {tuple(logits.shape)} have no deviation: standardize=True needs two classes."
        )
    return (logits - logits.mean(-1, keepdim=True)) / (1e-7 + logits.std(-1, keepdim=True))
