"""MobileNetV2 (Sandler et al., CVPR 2018) at half width for 32x32 images.

Parameter names are those of HobbitLong/RepDistiller (``mobile_half``) and megvii-research/mdistiller, so that their
checkpoints load. As there, the activation is ReLU and the first block is expanded by 1 with its own 1x1 convolution.
"""

from __future__ import annotations

from torch import Tensor, nn

from kd_lightning.models._common import conv, initialise
from kd_lightning.models.anatomy.places import Anatomy

# Expansion, channels at width 1, blocks, stride of the first block.
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """Expand (1x1), filter each channel (3x3), project (1x1, no activation); a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            conv(in_channels, hidden, kernel=1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            conv(hidden, hidden, stride=stride, groups=hidden),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            conv(hidden, out_channels, kernel=1),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        out: Tensor = x + self.conv(x) if self.has_shortcut else self.conv(x)
        return out


class MobileNetV2(nn.Module):
    """MobileNetV2 whose stem halves the resolution once.

    Args:
        width: Multiplier of the channels; the last convolution keeps at least 1280.
        num_classes: Width of the output.
        in_channels: Channels of the image.
    """

    def __init__(self, width: float = 0.5, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = nn.Sequential(conv(in_channels, channels, stride=2), nn.BatchNorm2d(channels), nn.ReLU())
        groups = []
        for expansion, base, count, stride in GROUPS:
            out_channels = int(base * width)
            first = InvertedResidual(channels, out_channels, stride, expansion)
            rest = [InvertedResidual(out_channels, out_channels, 1, expansion) for _ in range(count - 1)]
            groups.append(nn.Sequential(first, *rest))
            channels = out_channels
        self.blocks = nn.Sequential(*groups)
        last = int(1280 * max(width, 1.0))
        self.conv2 = nn.Sequential(conv(channels, last, kernel=1), nn.BatchNorm2d(last), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(last, num_classes))
        initialise(self, linear_std=0.01)

    def anatomy(self) -> Anatomy:
        """See :class:`~kd_lightning.models.anatomy.places.Anatomy`; preacts are stages: no block ends with one."""
        groups = (1, 2, 4, 6)
        stages = tuple(f"blocks.{group}" for group in groups)
        return Anatomy(
            stem="conv1",
            stages=stages,
            preacts=stages,
            preact_norms=tuple(f"blocks.{group}.{GROUPS[group][2] - 1}.conv.7" for group in groups),
            embedding="classifier.0:in",
            head="classifier.0",
            last_map="conv2",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        x = self.conv2(self.blocks(self.conv1(x)))
        logits: Tensor = self.classifier(self.avgpool(x).flatten(1))
        return logits


def mobilenetv2(num_classes: int = 100, in_channels: int = 3) -> MobileNetV2:
    """MobileNetV2 of width 0.5; 812,836 parameters at 100 classes."""
    return MobileNetV2(0.5, num_classes, in_channels)
