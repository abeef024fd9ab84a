"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016): pre-activation blocks, three stages.

Parameter names are those of HobbitLong/RepDistiller and megvii-research/mdistiller, so that their checkpoints load.

A stage ends in a plain sum; the batch norm and ReLU that follow it are the first of the next stage (``bn1`` and
``relu`` of the net after the last one). The anatomy's stages are the outputs of those ReLUs, its preacts their inputs.
The sums themselves, which RepDistiller calls features, are ``block1``, ``block2``, ``block3``.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from kd_lightning.models._common import conv, initialise
from kd_lightning.models.anatomy.places import Anatomy


class PreActBlock(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice; where the width changes, the shortcut is a 1x1 convolution of the ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = conv(in_channels, out_channels, stride=stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.conv2 = conv(out_channels, out_channels)
        self.convShortcut = None
        if in_channels != out_channels:
            self.convShortcut = conv(in_channels, out_channels, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        active = self.relu1(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        out: Tensor = shortcut + self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return out


class WideResNet(nn.Module):
    """Wide ResNet without dropout.

    Args:
        depth: Number of weighted layers, 6n + 4.
        widen_factor: The stages have 16, 32 and 64 times as many channels.
        num_classes: Width of the output.
        in_channels: Channels of the image.

    Raises:
        ValueError: Where depth is not 6n + 4.
    """

    def __init__(self, depth: int, widen_factor: int, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"A wide ResNet has a depth of 6n + 4 (10, 16, 22, ...), not {depth}.")
        blocks = (depth - 4) // 6
        widths = [16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.conv1 = conv(in_channels, 16)
        self.block1 = self._stage(blocks, 16, widths[0], stride=1)
        self.block2 = self._stage(blocks, widths[0], widths[1], stride=2)
        self.block3 = self._stage(blocks, widths[1], widths[2], stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)
        initialise(self)
        nn.init.zeros_(self.fc.bias)

    @staticmethod
    def _stage(blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        rest = [PreActBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)]
        layer = nn.Sequential(PreActBlock(in_channels, out_channels, stride), *rest)
        return nn.Sequential(OrderedDict(layer=layer))

    def anatomy(self) -> Anatomy:
        """See :class:`~kd_lightning.models.anatomy.places.Anatomy`."""
        return Anatomy(
            stem="conv1",
            stages=("block2.layer.0.relu1", "block3.layer.0.relu1", "relu"),
            preacts=("block2.layer.0.relu1:in", "block3.layer.0.relu1:in", "relu:in"),
            preact_norms=("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"),
            embedding="fc:in",
            head="fc",
            last_map="relu",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = self.relu(self.bn1(x))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def wrn_16_1(num_classes: int = 100, in_channels: int = 3) -> WideResNet:
    """WRN-16-1."""
    return WideResNet(16, 1, num_classes, in_channels)


def wrn_16_2(num_classes: int = 100, in_channels: int = 3) -> WideResNet:
    """WRN-16-2; 703,284 parameters at 100 classes."""
    return WideResNet(16, 2, num_classes, in_channels)


def wrn_40_1(num_classes: int = 100, in_channels: int = 3) -> WideResNet:
    """WRN-40-1; 569,780 parameters at 100 classes."""
    return WideResNet(40, 1, num_classes, in_channels)


def wrn_40_2(num_classes: int = 100, in_channels: int = 3) -> WideResNet:
    """WRN-40-2; 2,255,156 parameters at 100 classes."""
    return WideResNet(40, 2, num_classes, in_channels)
