"""Made-up images that can be learnt: for tests, smoke runs and timing."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kd_lightning.data.arrays import Arrays, fingerprint
from kd_lightning.data.images.facts import chunks
from kd_lightning.data.images.preprocess import Size, as_size


class Synthetic:
    """Every class is a smooth pattern, every sample its pattern with noise.

    Args:
        samples: How many; the classes are equally large to within one.
        num_classes: How many classes.
        channels: Channels of an image.
        image_size: Height and width in pixels.
        noise: Standard deviation of the noise; the patterns have 0.15, in units where white is 1.
        seed: Decides patterns and noise.
    """

    def __init__(
        self,
        samples: int = 2000,
        num_classes: int = 10,
        channels: int = 3,
        image_size: int | Size = 32,
        noise: float = 0.2,
        seed: int = 0,
    ) -> None:
        for name, value in {"num_classes": num_classes, "channels": channels}.items():
            if value < 1:
                raise ValueError(f"synthetic: {name} must be at least 1, got {value}.")
        if samples < num_classes:
            raise ValueError(f"synthetic: {samples} samples are too few for {num_classes} classes.")
        self.samples, self.num_classes, self.channels = samples, num_classes, channels
        self.size, self.noise, self.seed = as_size(image_size), noise, seed

    def load(self) -> Arrays:
        """Make all samples."""
        generator = torch.Generator().manual_seed(self.seed)
        coarse = torch.randn(self.num_classes, self.channels, 4, 4, generator=generator)
        patterns = F.interpolate(coarse, self.size, mode="bilinear", align_corners=False)
        patterns = 0.5 + 0.15 * patterns / patterns.std((1, 2, 3), keepdim=True).clamp(min=1e-6)
        targets = torch.arange(self.samples) % self.num_classes
        images = torch.empty(self.samples, self.channels, *self.size, dtype=torch.uint8)
        for chunk in chunks(torch.arange(self.samples), 4096):  # a chunk at a time: floats take four times the memory
            noise = self.noise * torch.randn(len(chunk), self.channels, *self.size, generator=generator)
            images[chunk] = ((patterns[targets[chunk]] + noise).clamp(0, 1) * 255).round().to(torch.uint8)
        return Arrays(images, targets, fingerprint(images, targets), tuple(map(str, range(self.num_classes))))
