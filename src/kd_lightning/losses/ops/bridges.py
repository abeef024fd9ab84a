"""Running the later stages of a network on features from elsewhere, as FCFD does."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.heads import head_weight
from kd_lightning.losses.ops.norm import BatchNorm


class Bridge(nn.Module):
    """From the map of one network to the shape of another's: 3x3 convolution, batch norm, leaky ReLU.

    The convolution has stride 2 where the target is half as large and is transposed where it is twice as large; for
    any other ratio the map is resized after it.

    Args:
        source: Example map (B, C_s, H_s, W_s).
        target: Example map (B, C_t, H_t, W_t).
    """

    def __init__(self, source: Tensor, target: Tensor) -> None:
        super().__init__()
        channels, (height, width) = (source.shape[1], target.shape[1]), source.shape[2:]
        self.size = (target.shape[2], target.shape[3])
        self.convolution: nn.Module
        if self.size == (2 * height, 2 * width):
            self.convolution = nn.ConvTranspose2d(*channels, kernel_size=4, stride=2, padding=1, bias=False)
        else:
            stride = 2 if (height, width) == (2 * self.size[0], 2 * self.size[1]) else 1
            self.convolution = nn.Conv2d(*channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm = BatchNorm(channels[1])

    def forward(self, x: Tensor) -> Tensor:
        """Map in the target's shape."""
        x = F.leaky_relu(self.norm(self.convolution(x)), 0.1)
        if tuple(x.shape[2:]) == self.size:
            return x
        if x.shape[2] >= self.size[0] and x.shape[3] >= self.size[1]:
            return F.adaptive_avg_pool2d(x, self.size)
        return F.interpolate(x, self.size, mode="bilinear")


@contextmanager
def unobserved(modules: Sequence[nn.Module]) -> Iterator[None]:
    """No taps and no batch-norm statistics inside: a second pass that the rest of the run must not see.

    Batch norms in training still normalise by the statistics of this batch.
    """
    inner = [m for module in modules for m in module.modules()]
    hooks = [(m, m._forward_hooks) for m in inner]
    norms = [(m, m.track_running_stats) for m in inner if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    try:
        for module, _ in hooks:
            module._forward_hooks = OrderedDict()
        for norm, _ in norms:
            norm.track_running_stats = False
        yield
    finally:
        for module, kept in hooks:
            module._forward_hooks = kept
        for norm, tracked in norms:
            norm.track_running_stats = tracked


def continue_from(x: Tensor, stages: Sequence[nn.Module], head: nn.Module, frozen: bool) -> tuple[list[Tensor], Tensor]:
    """Maps after each of the given stages, and the logits of the pooled last one.

    Args:
        x: Map before the first of the stages.
        stages: What is left of the network, in order.
        head: Its linear classifier.
        frozen: The classifier gets no gradient.
    """
    features: list[Tensor] = []
    with unobserved(stages):
        for stage in stages:
            x = stage(x)
            features.append(x)
    weight, bias = head_weight(head, frozen=frozen)
    return features, F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), weight, bias)


def check_chain(
    features: Sequence[Tensor], logits: Tensor, stages: Sequence[nn.Module], head: nn.Module, who: str
) -> None:
    """Refuse a network that is not its stages one after the other, global average pooling and a linear classifier.

    Raises:
        ValueError: The stages, run on the first map, do not give the other maps and the logits.
    """
    try:
        found, last = continue_from(features[0], stages[1:], head, frozen=True)
        pairs = [*zip(found, features[1:], strict=True), (last, logits)]
        agree = all(a.shape == b.shape and (a - b).norm() <= 0.05 * b.norm() + 1e-4 for a, b in pairs)
    except (RuntimeError, ValueError):
        agree = False
    if not agree:
        raise ValueError(
            f"FCFD runs the {who}'s later stages on other features, so the {who} must be its stages in order, global "
            "average pooling and a linear classifier (ResNet, ShuffleNetV1 and the like); this one is not. Name other "
            f"places with {who}.taps.stages, or choose another method."
        )
