"""A batch by its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def first_rows(batch: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The first samples of a batch, whose ``index`` (B,) says how many it has; what is not one a sample stays."""
    size = len(batch["index"])
    return {k: v[:count] if isinstance(v, Tensor) and v.dim() and len(v) == size else v for k, v in batch.items()}
