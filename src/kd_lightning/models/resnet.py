"""CIFAR ResNets (He et al., CVPR 2016) in the widths of the distillation literature.

Three stages of basic blocks at full, half and quarter resolution, with a projected shortcut where the shape changes.
``resnet<d>`` is 16, 16, 32, 64 channels wide (stem, stages), ``resnet<d>x4`` 32, 64, 128, 256.

Parameter names are those of HobbitLong/RepDistiller and megvii-research/mdistiller, so that their checkpoints load.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_lightning.models._common import conv, initialise
from kd_lightning.models.anatomy.places import Anatomy

NARROW = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ``relu2`` ends the block, so that its input is the pre-activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                conv(in_channels, out_channels, kernel=1, stride=stride), nn.BatchNorm2d(out_channels)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        residual = self.relu1(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        out: Tensor = self.relu2(residual + self.downsample(x))
        return out


class ResNet(nn.Module):
    """CIFAR ResNet.

    Args:
        depth: Number of weighted layers, 6n + 2.
        widths: Channels of the stem and of the three stages.
        num_classes: Width of the output.
        in_channels: Channels of the image.

    Raises:
        ValueError: Where depth is not 6n + 2.
    """

    def __init__(self, depth: int, widths: Sequence[int], num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"A CIFAR ResNet has a depth of 6n + 2 (8, 14, 20, ...), not {depth}.")
        self.blocks_per_stage = (depth - 2) // 6
        self.conv1 = conv(in_channels, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.layer1 = self._stage(widths[0], widths[1], stride=1)
        self.layer2 = self._stage(widths[1], widths[2], stride=2)
        self.layer3 = self._stage(widths[2], widths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        initialise(self)

    def _stage(self, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        rest = [BasicBlock(out_channels, out_channels, 1) for _ in range(self.blocks_per_stage - 1)]
        return nn.Sequential(BasicBlock(in_channels, out_channels, stride), *rest)

    def anatomy(self) -> Anatomy:
        """See :class:`~kd_lightning.models.anatomy.places.Anatomy`."""
        last = [f"layer{stage}.{self.blocks_per_stage - 1}" for stage in (1, 2, 3)]
        return Anatomy(
            stem="relu",
            stages=("layer1", "layer2", "layer3"),
            preacts=tuple(f"{block}.relu2:in" for block in last),
            preact_norms=tuple(f"{block}.bn2" for block in last),
            embedding="fc:in",
            head="fc",
            last_map="layer3",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def resnet8(num_classes: int = 100, in_channels: int = 3) -> ResNet:
    """ResNet-8; 83,892 parameters at 100 classes."""
    return ResNet(8, NARROW, num_classes, in_channels)


def resnet14(num_classes: int = 100, in_channels: int = 3) -> ResNet:
    """ResNet-14."""
    return ResNet(14, NARROW, num_classes, in_channels)


def resnet20(num_classes: int = 100, in_channels: int = 3) -> ResNet:
    """ResNet-20; 278,324 parameters at 100 classes."""
    return ResNet(20, NARROW, num_classes, in_channels)


def resnet32(num_classes: int = 100, in_channels: int = 3) -> ResNet:
    """ResNet-32."""
    return ResNet(32, NARROW, num_classes, in_channels)


def resnet44(num_classes: int = 100, in_channels: int = 3) -> ResNet:
    """ResNet-44."""
    return ResNet(44, NARROW, num_classes, in_channels)


def resnet56(num_classes: int = 100, in_channels: int = 3) -> ResNet:
    """ResNet-56; 861,620 parameters at 100 classes."""
    return ResNet(56, NARROW, num_classes, in_channels)


def resnet110(num_classes: int = 100, in_channels: int = 3) -> ResNet:
    """ResNet-110; 1,736,564 parameters at 100 classes."""
    return ResNet(110, NARROW, num_classes, in_channels)


def resnet8x4(num_classes: int = 100, in_channels: int = 3) -> ResNet:
    """ResNet-8, four times as wide; 1,233,540 parameters at 100 classes."""
    return ResNet(8, WIDE, num_classes, in_channels)


def resnet32x4(num_classes: int = 100, in_channels: int = 3) -> ResNet:
    """ResNet-32, four times as wide; 7,433,860 parameters at 100 classes."""
    return ResNet(32, WIDE, num_classes, in_channels)
