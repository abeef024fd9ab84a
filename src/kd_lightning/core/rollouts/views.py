"""More looks at a batch of images: rotated, strongly augmented, with partners of the same class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kd_lightning.core.roles import Roles


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


class TwoViews:
    """Every image weakly and strongly augmented, for MLKD: (B, ...) -> (2B, ...) as [weak, strong].

    Both keep the label. The strong view is made with the operations of ``data.strong``.
    """

    def attach(self, data: Any) -> None:
        """Take the data module, which makes the views."""
        self._data = data

    def __call__(self, batch: Mapping[str, Any], roles: Roles) -> Mapping[str, Any]:
        """The batch of twice the size."""
        strong = self._data.views(batch, [batch["view"]], strong=True)[0]
        twice = {name: batch[name].repeat(2) for name in ("target", "index")}
        return {**batch, **twice, "image": torch.cat([batch["image"], strong])}


class ClassPairs:
    """Every sample with another one of its class, for CS-KD: (B, ...) -> (2B, ...) as [samples, partners].

    Partners change from epoch to epoch and get target -100, so that labels count once.
    """

    def attach(self, data: Any) -> None:
        """Take the data module, which knows the classes and reads the partners."""
        self._data = data
        targets = data.targets("train")
        self._members = [(targets == c).nonzero().squeeze(1) for c in range(int(targets.max()) + 1)]
        self._rank = torch.zeros_like(targets)
        for members in self._members:
            self._rank[members] = torch.arange(len(members))

    def __call__(self, batch: Mapping[str, Any], roles: Roles) -> Mapping[str, Any]:
        """The batch of twice the size."""
        partners = []
        for index, target in zip(batch["index"].tolist(), batch["target"].tolist(), strict=True):
            if target < 0:  # without a label: its own partner
                partners.append(torch.tensor(index))
                continue
            members = self._members[target]
            # A step of 1 to n - 1 places within the class never leads back to the sample itself.
            step = 1 + (batch["view"] * 7919 + index * 104729) % max(len(members) - 1, 1)
            partners.append(members[(self._rank[index] + step) % len(members)])
        index = torch.stack(partners)
        raw = self._data.read("train", index).to(batch["image"].device)
        index = index.to(batch["index"].device)
        image = self._data.views({"raw": raw, "index": index}, [batch["view"]])[0]
        return {
            **batch,
            "image": torch.cat([batch["image"], image]),
            "target": torch.cat([batch["target"], torch.full_like(batch["target"], -100)]),
            "index": torch.cat([batch["index"], index]),
        }
