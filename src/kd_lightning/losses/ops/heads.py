"""A network's classifier as a matrix.

A loss that reuses a classifier works on its weights and never calls the module: a call would fire the hooks of the
taps on its input a second time.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def classifier(head: nn.Module) -> nn.Linear | nn.Conv2d:
    """The linear layer (or 1x1 convolution) of a head, also inside a container with dropout.

    Raises:
        ValueError: The head has none or several layers with weights.
    """
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
