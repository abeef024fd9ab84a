"""Quantisation-aware training: int8 rounding in the forward pass, straight through in the backward pass.

What int8 files do to a student, its training sees: weights are rounded to 255 levels a channel, and what enters a
convolution or linear layer to 256 levels between its smallest and largest value (Jacob et al., Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018, section 3). The student then
learns from its labels and its teacher under that noise. Deployment is what it always is: the plain weights, quantised
by the exporter, which measures the ranges on training data.

It refines a finished student, with the statistics of its batch norms fixed (as Krishnamoorthi, Quantizing deep
convolutional networks for efficient inference, 2018, does in the end). Statistics of rounded values would not be those
of the files: a channel that rounding silences has no variance, and its batch norm blows up what is not quite silent. A
MobileNetV2 that was trained so from scratch had 59 % under rounding and 10 % without.

Batch norms need not be folded first. Folding scales the weights of a channel by one number, and so scales its levels:
the rounded weights are the same ones.
"""

from __future__ import annotations

import copy
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

LEVELS = 255


class FakeQuantConv2d(nn.Conv2d):
    """A convolution that rounds its weight and input as int8 would; the same parameters under the same names."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        out: Tensor = self._conv_forward(round_activation(input), round_weight(self.weight), self.bias)
        return out


class FakeQuantLinear(nn.Linear):
    """A linear layer that rounds its weight and input as int8 would; the same parameters under the same names."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Linear``."""
        return F.linear(round_activation(input), round_weight(self.weight), self.bias)


class _Fixed(nn.Module):
    """Makes a batch norm stay in evaluation: it keeps its statistics, while its scale and shift learn."""

    def train(self, mode: bool = True) -> Self:
        """Evaluation, whatever is asked for."""
        return super().train(False)


class FixedBatchNorm2d(_Fixed, nn.BatchNorm2d):
    """A batch norm that keeps its statistics."""


_TWINS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: FakeQuantConv2d, nn.Linear: FakeQuantLinear}
_FIXED: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm2d: FixedBatchNorm2d}


def fake_quantise(net: nn.Module) -> nn.Module:
    """Let every convolution and linear layer of a net round as int8 would, and every batch norm keep its statistics.

    Layers keep their place and their parameters, so that taps, checkpoints and export find what they always find.

    Args:
        net: A trained net; changed in place, and returned.

    Raises:
        ValueError: There is nothing to round: no layer is exactly an ``nn.Conv2d`` or ``nn.Linear``.
    """
    layers = [module for module in net.modules() if type(module) in _TWINS]
    if not layers:
        raise ValueError(f"{type(net).__name__} has no nn.Conv2d or nn.Linear to train for int8.")
    for layer in layers:
        layer.__class__ = _TWINS[type(layer)]
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = _fixed(type(module))  # type: ignore[assignment]
            module.eval()
    return net


def without_fake_quant(net: nn.Module) -> nn.Module:
    """The net that is deployed: a copy with plain layers and the same weights; the net itself where it is plain."""
    ours = (FakeQuantConv2d, FakeQuantLinear, _Fixed)
    if not any(isinstance(module, ours) for module in net.modules()):
        return net
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, ours):
            module.__class__ = type(module).__bases__[-1]
    return net.train(net.training)


def _fixed(norm: type[nn.Module]) -> type[nn.Module]:
    """The twin of a class of batch norms, such as timm's, which are norm and activation in one."""
    if norm not in _FIXED:
        _FIXED[norm] = type(f"Fixed{norm.__name__}", (_Fixed, norm), {})
    return _FIXED[norm]


def round_weight(weight: Tensor) -> Tensor:
    """Rounded to 255 levels, symmetric around zero, for each output channel; (C_out, ...) to the same shape."""
    largest = weight.detach().float().abs().flatten(1).amax(1).clamp(min=1e-12)
    scale = (largest / (LEVELS // 2)).view(-1, *[1] * (weight.dim() - 1))
    return _straight_through(weight, (weight.detach().float() / scale).round() * scale)


def round_activation(x: Tensor) -> Tensor:
    """Rounded to 256 levels between the smallest and largest value of the batch, zero among them; any shape."""
    values = x.detach().float()
    low, high = values.amin().clamp(max=0), values.amax().clamp(min=0)
    scale = ((high - low) / LEVELS).clamp(min=1e-12)
    zero = (low / scale).round()
    return _straight_through(x, ((values / scale).round().clamp(zero, zero + LEVELS)) * scale)


def _straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """The value of ``rounded`` with the gradient of ``x``."""
    return x + (rounded.to(x.dtype) - x.detach())
