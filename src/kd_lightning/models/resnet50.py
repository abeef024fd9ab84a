"""ResNet-50 for 32x32 images (He et al., CVPR 2016): bottlenecks, four stages, a 3x3 stem without pooling.

Parameter names are those of HobbitLong/RepDistiller (``models/resnetv2.py``), so that its checkpoints load.
"""

from __future__ import annotations

from torch import Tensor, nn

from kd_lightning.models._common import conv, initialise
from kd_lightning.models.anatomy.places import Anatomy

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; ``relu3`` ends the block."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = conv(in_channels, width, kernel=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(width, width, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = conv(width, out_channels, kernel=1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                conv(in_channels, out_channels, kernel=1, stride=stride), nn.BatchNorm2d(out_channels)
            )
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, 4 width, H / stride, W / stride)."""
        residual = self.relu1(self.bn1(self.conv1(x)))
        residual = self.relu2(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        out: Tensor = self.relu3(residual + self.shortcut(x))
        return out


class ResNet50(nn.Module):
    """ResNet-50 whose stem keeps the resolution.

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the image.
    """

    BLOCKS = (3, 4, 6, 3)
    WIDTHS = (64, 128, 256, 512)
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        channels = 64
        for index, (blocks, width) in enumerate(zip(self.BLOCKS, self.WIDTHS, strict=True), start=1):
            first = Bottleneck(channels, width, stride=1 if index == 1 else 2)
            channels = width * EXPANSION
            rest = [Bottleneck(channels, width, stride=1) for _ in range(blocks - 1)]
            self.add_module(f"layer{index}", nn.Sequential(first, *rest))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, num_classes)
        initialise(self)

    def anatomy(self) -> Anatomy:
        """See :class:`~kd_lightning.models.anatomy.places.Anatomy`."""
        last = [f"layer{stage}.{blocks - 1}" for stage, blocks in enumerate(self.BLOCKS, start=1)]
        return Anatomy(
            stem="relu",
            stages=("layer1", "layer2", "layer3", "layer4"),
            preacts=tuple(f"{block}.relu3:in" for block in last),
            preact_norms=tuple(f"{block}.bn3" for block in last),
            embedding="linear:in",
            head="linear",
            last_map="layer4",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.linear(self.avgpool(x).flatten(1))
        return logits


def resnet50_cifar(num_classes: int = 100, in_channels: int = 3) -> ResNet50:
    """ResNet-50 for small images; 23,705,252 parameters at 100 classes."""
    return ResNet50(num_classes, in_channels)
