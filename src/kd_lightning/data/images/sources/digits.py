"""scikit-learn's handwritten digits: real data that is always there."""

from __future__ import annotations

import torch

from kd_lightning.data.arrays import Arrays, fingerprint


class Digits:
    """1797 grey images of 8x8 pixels in ten classes (UCI Optical Recognition of Handwritten Digits, test part).

    The set comes with scikit-learn. It has no official split.
    """

    def load(self) -> Arrays:
        """Read all; the 17 grey levels are spread over 0..255."""
        from sklearn.datasets import load_digits

        raw = load_digits()
        levels = torch.from_numpy(raw.images.copy())
        images = (levels * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
        targets = torch.from_numpy(raw.target.copy()).long()
        names = tuple(str(name) for name in raw.target_names)
        return Arrays(images, targets, fingerprint(images, targets, *names), names)
