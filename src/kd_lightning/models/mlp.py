"""A multi-layer perceptron for feature vectors (flattens whatever it is given)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from kd_lightning.models.anatomy.places import Anatomy


class MLP(nn.Module):
    """Linear layers with ReLUs between.

    Args:
        num_classes: Width of the output.
        in_channels: Width of a feature vector, or channels of an image.
        image_size: Height and width of the image, one number where they are equal; None for feature vectors.
        hidden: Widths of the hidden layers, at least one.
        dropout: Share of the hidden units dropped in training.

    Raises:
        ValueError: Where there is no hidden layer.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int | Sequence[int] | None = None,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("An MLP needs at least one hidden layer: hidden=[256].")
        size = (1,) if image_size is None else image_size
        width = in_channels * (size**2 if isinstance(size, int) else prod(size))
        layers = []
        for out_width in hidden:
            layers.append(nn.Sequential(nn.Linear(width, out_width), nn.ReLU(), nn.Dropout(dropout)))
            width = out_width
        self.flatten = nn.Flatten()
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, num_classes)

    def anatomy(self) -> Anatomy:
        """See :class:`~kd_lightning.models.anatomy.places.Anatomy`; stages are (B, D)."""
        depth = len(self.layers)
        return Anatomy(
            stem="layers.0.0",
            stages=tuple(f"layers.{i}.1" for i in range(depth)),
            preacts=tuple(f"layers.{i}.1:in" for i in range(depth)),
            embedding="head:in",
            head="head",
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to logits (B, classes)."""
        logits: Tensor = self.head(self.layers(self.flatten(x)))
        return logits


def mlp(
    num_classes: int,
    in_channels: int,
    image_size: int | Sequence[int] | None = None,
    hidden: Sequence[int] = (256, 256),
    dropout: float = 0.0,
) -> MLP:
    """See :class:`MLP`."""
    return MLP(num_classes, in_channels, image_size, hidden, dropout)
