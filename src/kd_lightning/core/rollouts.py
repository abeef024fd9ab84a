"""Rollouts: rewrite the batch on the device before the step; without one the batch is used as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from kd_lightning.core.roles import Roles


class Rollout(Protocol):
    """What a method may do to the batch before its roles see it."""

    def __call__(self, batch: Mapping[str, Any], roles: Roles) -> Mapping[str, Any]:
        """The new batch; the given one must not be changed."""
        ...


class Rotations:
    """Every image in four orientations, for SSKD: (B, C, H, W) -> (4B, C, H, W) as [0, 90, 180, 270 degrees].

    Rotated copies get target -100, so that losses on labels see the upright images only. Images must be square.
    """

    def __call__(self, batch: Mapping[str, Any], roles: Roles) -> Mapping[str, Any]:
        """The batch of four times the size."""
        image: Tensor = batch["image"]
        if image.shape[-1] != image.shape[-2]:
            raise ValueError(f"Rotations need square images, not {tuple(image.shape[-2:])}.")
        images = torch.cat([torch.rot90(image, k, (2, 3)) for k in range(4)])
        ignored = torch.full_like(batch["target"], -100)
        return {
            **batch,
            "image": images,
            "target": torch.cat([batch["target"], ignored, ignored, ignored]),
            "index": batch["index"].repeat(4),
        }
