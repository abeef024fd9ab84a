"""CIFAR VGGs with batch norm (Simonyan and Zisserman, ICLR 2015) and one linear layer.

Five blocks of 3x3 convolutions; a max pool halves the map after each of the first three, the mean is taken after the
last. Parameter names are those of HobbitLong/RepDistiller (``vgg8_bn`` ... there) and megvii-research/mdistiller, so
that their checkpoints load. Those pool once more before the last block on images of 64x64; here they do not.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_lightning.models._common import initialise
from kd_lightning.models.anatomy.places import Anatomy

WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """VGG for small images.

    Args:
        layers: Convolutions in each of the five blocks.
        num_classes: Width of the output.
        in_channels: Channels of the image.
    """

    block0: nn.Sequential
    block1: nn.Sequential
    block2: nn.Sequential
    block3: nn.Sequential
    block4: nn.Sequential
    relu0: nn.ReLU
    relu1: nn.ReLU
    relu2: nn.ReLU
    relu3: nn.ReLU
    relu4: nn.ReLU

    def __init__(self, layers: Sequence[int], num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        channels = in_channels
        self.norms: list[str] = []
        for index, (count, width) in enumerate(zip(layers, WIDTHS, strict=True)):
            block = self._block(count, channels, width)
            channels = width
            self.add_module(f"block{index}", block)
            self.add_module(f"relu{index}", nn.ReLU())
            self.norms.append(f"block{index}.{len(block) - 1}")
        self.pool = nn.MaxPool2d(2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self, linear_std=0.01)

    @staticmethod
    def _block(count: int, in_channels: int, width: int) -> nn.Sequential:
        """Convolutions with norms and ReLUs; the last ReLU is left to the net, where its input can be tapped."""
        layers: list[nn.Module] = []
        for index in range(count):
            layers += [nn.Conv2d(in_channels if index == 0 else width, width, 3, padding=1), nn.BatchNorm2d(width)]
            if index < count - 1:
                layers.append(nn.ReLU())
        return nn.Sequential(*layers)

    def anatomy(self) -> Anatomy:
        """See :class:`~kd_lightning.models.anatomy.places.Anatomy`."""
        return Anatomy(
            stem="relu0",
            stages=("relu1", "relu2", "relu3", "relu4"),
            preacts=("relu1:in", "relu2:in", "relu3:in", "relu4:in"),
            preact_norms=tuple(self.norms[1:]),
            embedding="classifier:in",
            head="classifier",
            last_map="relu4",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        x = self.pool(self.relu0(self.block0(x)))
        x = self.pool(self.relu1(self.block1(x)))
        x = self.pool(self.relu2(self.block2(x)))
        x = self.relu3(self.block3(x))
        x = self.relu4(self.block4(x))
        logits: Tensor = self.classifier(self.avgpool(x).flatten(1))
        return logits


def vgg8(num_classes: int = 100, in_channels: int = 3) -> VGG:
    """VGG-8; 3,965,028 parameters at 100 classes."""
    return VGG((1, 1, 1, 1, 1), num_classes, in_channels)


def vgg11(num_classes: int = 100, in_channels: int = 3) -> VGG:
    """VGG-11."""
    return VGG((1, 1, 2, 2, 2), num_classes, in_channels)


def vgg13(num_classes: int = 100, in_channels: int = 3) -> VGG:
    """VGG-13; 9,462,180 parameters at 100 classes."""
    return VGG((2, 2, 2, 2, 2), num_classes, in_channels)


def vgg16(num_classes: int = 100, in_channels: int = 3) -> VGG:
    """VGG-16."""
    return VGG((2, 2, 3, 3, 3), num_classes, in_channels)


def vgg19(num_classes: int = 100, in_channels: int = 3) -> VGG:
    """VGG-19."""
    return VGG((2, 2, 4, 4, 4), num_classes, in_channels)
