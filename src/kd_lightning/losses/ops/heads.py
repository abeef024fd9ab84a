"""A network's classifier as a matrix.

A loss that reuses a classifier works on its weights and never calls the module: a call would fire the hooks of the
taps on its input a second time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Finish:
    """What a model does to the numbers that its head gives, until they are its logits.

    Attributes:
        scale: Multiplies them (Granite, Cohere).
        cap: Soft cap after that, ``cap * tanh(x / cap)`` (Gemma 2); None for none.
        width: The first ones count; None for all of them.
    """

    scale: float = 1.0
    cap: float | None = None
    width: int | None = None

    def __call__(self, found: Tensor) -> Tensor:
        """Logits (..., V) from what the head gives, as wide as it is."""
        if self.scale != 1:
            found = found * self.scale
        return found if self.cap is None else torch.tanh(found / self.cap) * self.cap

    def slope(self, logits: Tensor, gradient: Tensor) -> Tensor:
        """The gradient in what the head gives, in place of the one in the logits."""
        if self.cap is not None:
            gradient *= 1 - (logits / self.cap) ** 2
        return gradient if self.scale == 1 else gradient.mul_(self.scale)


class FinishedHead(nn.Module):
    """A head with what its model does after it, for terms that make logits themselves.

    Args:
        head: The head; it may lie in a net too, this is only another look at it.
        finish: What comes after it.
    """

    def __init__(self, head: nn.Module, finish: Finish) -> None:
        super().__init__()
        self.head = head
        self.finish = finish


def finish_of(head: nn.Module) -> Finish:
    """What comes after a head; nothing where it does not say."""
    return head.finish if isinstance(head, FinishedHead) else Finish()


def classifier(head: nn.Module, *, finished: bool = True) -> nn.Linear | nn.Conv2d:
    """The linear layer (or 1x1 convolution) of a head, also inside a container with dropout.

    Args:
        head: The head.
        finished: What it gives must be the logits; False for a loss that knows of :func:`finish_of`.

    Raises:
        ValueError: The head has none or several layers with weights, or its model changes what it gives.
    """
    if finished and finish_of(head) != Finish():
        raise ValueError(
            f"The model changes what its classifier gives ({finish_of(head)}), which this loss cannot repeat: take a"
            " loss on logits."
        )
    layers = [m for m in head.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    others = [m for m in head.modules() if m not in layers and list(m.parameters(recurse=False))]
    if len(layers) != 1 or others or layers[0].weight.shape[2:].numel() != 1:
        raise ValueError(
            f"The classifier must be one linear layer, but it is {type(head).__name__} with {len(layers)} linear "
            f"layers and {len(others)} other layers with weights; refer to the linear layer itself by its path, "
            "for example teacher.head.fc!module."
        )
    return layers[0]


def head_weight(head: nn.Module, *, frozen: bool) -> tuple[Tensor, Tensor | None]:
    """Weight (classes, D) and bias (classes,) or None of a classifier; detached where ``frozen``."""
    layer = classifier(head)
    weight, bias = layer.weight.flatten(1), layer.bias
    if frozen:
        return weight.detach(), None if bias is None else bias.detach()
    return weight, bias


def apply_frozen_head(head: nn.Module, features: Tensor) -> Tensor:
    """Logits (B, classes) of features (B, D) under a classifier that gets no gradient itself.

    Raises:
        ValueError: The width of the features is not that of the classifier.
    """
    weight, bias = head_weight(head, frozen=True)
    _check_width(features.shape[1], weight)
    return F.linear(features, weight.to(features.dtype), None if bias is None else bias.to(features.dtype))


def class_activation_maps(features: Tensor, head: nn.Module, *, frozen: bool) -> Tensor:
    """Class activation maps (B, classes, H, W): the classifier's weights at every position of the map (B, D, H, W).

    The bias is left out, as in Zhou et al. (2016): it is the same at every position.

    Raises:
        ValueError: The map is not the one that the classifier sees pooled.
    """
    weight, _ = head_weight(head, frozen=frozen)
    _check_width(features.shape[1], weight)
    return F.conv2d(features, weight.to(features.dtype)[:, :, None, None])


def _check_width(width: int, weight: Tensor) -> None:
    if width != weight.shape[1]:
        raise ValueError(
            f"The classifier takes {weight.shape[1]} values, but the features have {width}; refer to the features "
            "right before the classifier (for a map: the layer whose output is pooled)."
        )
