"""What logits say, in words."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def top_classes(logits: Tensor, names: list[str], top: int) -> list[list[dict[str, Any]]]:
    """The ``top`` most probable classes of each row of logits (B, C), best first.

    Raises:
        ValueError: ``top`` is not positive.
    """
    if top < 1:
        raise ValueError(f"At least one class must be named, not {top}.")
    best = logits.float().softmax(1).topk(min(top, logits.shape[1]))
    return [
        [{"class": names[i], "probability": round(p, 6)} for p, i in zip(*row, strict=True)]
        for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
