"""ShuffleNet V1 (Zhang et al., CVPR 2018) and V2 (Ma et al., ECCV 2018) for 32x32 images.

Both have a 1x1 stem and three stages that halve the resolution at their start. Parameter names are those of
HobbitLong/RepDistiller and megvii-research/mdistiller, so that their checkpoints load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_lightning.models._common import ChannelShuffle, conv
from kd_lightning.models.anatomy.places import Anatomy

STEM = 24


class UnitV1(nn.Module):
    """Grouped bottleneck; the stride-2 unit appends its input, averaged, instead of adding it."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        self.appends = stride == 2
        grown = out_channels - in_channels if self.appends else out_channels
        middle = grown // 4
        first_groups = 1 if in_channels == STEM else groups
        self.conv1 = conv(in_channels, middle, kernel=1, groups=first_groups)
        self.bn1 = nn.BatchNorm2d(middle)
        self.relu1 = nn.ReLU()
        self.shuffle = ChannelShuffle(first_groups)
        self.conv2 = conv(middle, middle, stride=stride, groups=middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.relu2 = nn.ReLU()
        self.conv3 = conv(middle, grown, kernel=1, groups=groups)
        self.bn3 = nn.BatchNorm2d(grown)
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if self.appends else nn.Identity()
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        residual = self.shuffle(self.relu1(self.bn1(self.conv1(x))))
        residual = self.relu2(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        shortcut = self.shortcut(x)
        out: Tensor = self.relu3(torch.cat([residual, shortcut], 1) if self.appends else residual + shortcut)
        return out


class ShuffleNetV1(nn.Module):
    """ShuffleNet with three groups.

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the image.
    """

    UNITS = (4, 8, 4)
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, STEM, kernel=1)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU()
        channels = STEM
        for index, (units, width) in enumerate(zip(self.UNITS, (240, 480, 960), strict=True), start=1):
            rest = [UnitV1(width, width, stride=1, groups=3) for _ in range(units - 1)]
            stage = nn.Sequential(UnitV1(channels, width, stride=2, groups=3), *rest)
            self.add_module(f"layer{index}", stage)
            channels = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, num_classes)

    def anatomy(self) -> Anatomy:
        """See :class:`~kd_lightning.models.anatomy.places.Anatomy`."""
        last = [f"layer{stage}.{units - 1}" for stage, units in enumerate(self.UNITS, start=1)]
        return Anatomy(
            stem="relu",
            stages=("layer1", "layer2", "layer3"),
            preacts=tuple(f"{unit}.relu3:in" for unit in last),
            preact_norms=tuple(f"{unit}.bn3" for unit in last),
            embedding="linear:in",
            head="linear",
            last_map="layer3",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.avgpool(x).flatten(1))
        return logits


class UnitV2(nn.Module):
    """Keeps half of the channels and transforms the other half.

    The ReLU stands after concatenation and shuffle. The kept half is already non-negative, so the values are those of
    a ReLU on the other half alone, and the unit has one pre-activation in the channel order of its output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv(half, half, kernel=1)
        self.bn1 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(half, half, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(half, half, kernel=1)
        self.bn3 = nn.BatchNorm2d(half)
        self.shuffle = ChannelShuffle(2)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        kept, changed = x.chunk(2, dim=1)
        changed = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(changed)))))
        changed = self.bn3(self.conv3(changed))
        out: Tensor = self.relu2(self.shuffle(torch.cat([kept, changed], 1)))
        return out


class DownUnitV2(nn.Module):
    """Halves the resolution: both branches see the whole input, each gives half of the output's channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = conv(in_channels, in_channels, stride=2, groups=in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = conv(in_channels, half, kernel=1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(in_channels, half, kernel=1)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU()
        self.conv4 = conv(half, half, stride=2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv(half, half, kernel=1)
        self.bn5 = nn.BatchNorm2d(half)
        self.shuffle = ChannelShuffle(2)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / 2, W / 2)."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(self.relu1(self.bn3(self.conv3(x)))))
        right = self.bn5(self.conv5(right))
        out: Tensor = self.relu2(self.shuffle(torch.cat([left, right], 1)))
        return out


class ShuffleNetV2(nn.Module):
    """ShuffleNet V2 of size 1.

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the image.
    """

    UNITS = (3, 7, 3)
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, STEM, kernel=1)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu1 = nn.ReLU()
        channels = STEM
        for index, (units, width) in enumerate(zip(self.UNITS, (116, 232, 464), strict=True), start=1):
            stage = nn.Sequential(DownUnitV2(channels, width), *(UnitV2(width) for _ in range(units)))
            self.add_module(f"layer{index}", stage)
            channels = width
        self.conv2 = conv(channels, 1024, kernel=1)
        self.bn2 = nn.BatchNorm2d(1024)
        self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(1024, num_classes)

    def anatomy(self) -> Anatomy:
        """See :class:`~kd_lightning.models.anatomy.places.Anatomy`; no norm gives a whole pre-activation here."""
        return Anatomy(
            stem="relu1",
            stages=("layer1", "layer2", "layer3"),
            preacts=tuple(f"layer{stage}.{units}.relu2:in" for stage, units in enumerate(self.UNITS, start=1)),
            embedding="linear:in",
            head="linear",
            last_map="relu2",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        logits: Tensor = self.linear(self.avgpool(x).flatten(1))
        return logits


def shufflev1(num_classes: int = 100, in_channels: int = 3) -> ShuffleNetV1:
    """ShuffleNet V1; 949,258 parameters at 100 classes."""
    return ShuffleNetV1(num_classes, in_channels)


def shufflev2(num_classes: int = 100, in_channels: int = 3) -> ShuffleNetV2:
    """ShuffleNet V2; 1,355,528 parameters at 100 classes."""
    return ShuffleNetV2(num_classes, in_channels)
